//! Decodes the images of a folder, with results of earlier scans for files that are unchanged.
//!
//! The cache of a root is one sealed file: a block per class folder with a line per image. A block is read when its folder is scanned,
//! and the file is written again only when a block changed, so a scan that finds nothing new needs little memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use rustix::fs::{AtFlags, fstat, statat};
use serde::{Deserialize, Serialize};
use tessera_models::files;
use tessera_tokenizers::Fingerprint;

use super::walk::is_dangling;
use crate::data::contract::ScanContext;
use crate::data::digest::{Digest, Stamp, recall, remember};
use crate::data::error::DataError;
use crate::data::names::Names;

/// Files that a thread examines at a time.
const AT_ONCE: usize = 64;

/// Result for a file.
#[derive(Serialize, Deserialize)]
struct Known<'a> {
    /// Its name below the block's folder.
    #[serde(borrow)]
    name: Cow<'a, str>,
    stamp: Stamp,
    digest: Digest,
}

/// The results of earlier scans of a root: a folder's path relative to the root, and its block.
pub struct Cache {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Place of every block in `bytes`.
    places: HashMap<String, (usize, usize)>,
}

/// A folder that was examined.
pub struct Examined {
    /// Result for each image, in order.
    pub digests: Vec<Digest>,
    /// Its new block; `None` if the stored one is still valid.
    pub block: Option<Vec<u8>>,
}

impl Cache {
    /// Reads the cache of `root`, whose other spellings and links share it. A damaged cache is empty.
    pub fn of(root: &Path, folder: &Path) -> Self {
        let canonical = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        let key = Fingerprint::of(&[b"folder", canonical.as_os_str().as_encoded_bytes()]);
        let path = folder.join(format!("{}.bin", &key.0[..32]));
        let bytes = recall(&path).unwrap_or_default();
        let blocks: Vec<(&str, &[u8])> = postcard::from_bytes(&bytes).unwrap_or_default();
        let start = bytes.as_ptr() as usize;
        let place = |block: &[u8]| (block.as_ptr() as usize - start, block.len());
        let places = blocks
            .iter()
            .map(|(name, block)| ((*name).to_owned(), place(block)));
        let places = places.collect();
        Self {
            path,
            bytes,
            places,
        }
    }

    fn block(&self, folder: &str) -> &[u8] {
        let place = self.places.get(folder);
        place.map_or(&[], |(start, length)| &self.bytes[*start..start + length])
    }

    /// Writes the cache with the new blocks, if there are any.
    pub fn write(self, root: &Path, new: &HashMap<String, Vec<u8>>) {
        if new.is_empty() {
            return;
        }
        // Classes that this suite does not select stay, unless they were removed.
        let old = self
            .places
            .keys()
            .filter(|folder| !new.contains_key(*folder) && root.join(folder).is_dir());
        let old = old.map(|folder| (folder.as_str(), self.block(folder)));
        let new = new
            .iter()
            .map(|(folder, block)| (folder.as_str(), &block[..]));
        let mut blocks: Vec<(&str, &[u8])> = old.chain(new).collect();
        blocks.sort_unstable();
        remember(&self.path, &blocks);
    }

    /// Returns the results for the images `names` (relative to the root) of `folder`, from the cache or by decoding.
    ///
    /// # Errors
    /// If a file cannot be read, or the user interrupts.
    pub fn examine(
        &self,
        root: &Path,
        folder: &str,
        names: &Names,
        done: &Progress<'_>,
    ) -> Result<Examined, DataError> {
        let block = self.block(folder);
        let known: Vec<Known<'_>> = postcard::from_bytes(block).unwrap_or_default();
        let own = |index: usize| &names[index][folder.len() + 1..];
        let path = root.join(folder);
        let opened = File::open(&path).map_err(|e| DataError::at(&path, e.to_string()))?;
        let now = (0..names.len()).into_par_iter().with_min_len(AT_ONCE);
        let now = now.map(|index| {
            done.step()?;
            // Mostly the same files as before, at the same places.
            let same = known.get(index).filter(|known| known.name == own(index));
            let at = same.map(|_| index).or_else(|| {
                let at = known.binary_search_by(|known| known.name.as_ref().cmp(own(index)));
                at.ok()
            });
            let known = at.map(|at| (at, &known[at]));
            one((&path, &opened), own(index), known)
        });
        let now: Vec<Now> = now.collect::<Result<_, _>>()?;
        let unchanged = now.len() == known.len() && now.iter().all(|now| now.known.is_some());
        if unchanged {
            let digests = known.into_iter().map(|known| known.digest).collect();
            return Ok(Examined {
                digests,
                block: None,
            });
        }
        let all: Vec<Known<'_>> = (0..)
            .zip(now)
            .map(|(index, now)| Known {
                name: Cow::Borrowed(own(index)),
                stamp: now.stamp,
                digest: now
                    .digest
                    .unwrap_or_else(|| known[now.known.unwrap_or(0)].digest.clone()),
            })
            .collect();
        let block = postcard::to_allocvec(&all).ok();
        let digests = all.into_iter().map(|known| known.digest).collect();
        Ok(Examined { digests, block })
    }
}

/// Counts images for the user, who may interrupt.
pub struct Progress<'a> {
    cx: &'a ScanContext<'a>,
    done: AtomicUsize,
    total: usize,
}

impl<'a> Progress<'a> {
    /// Of `total` images.
    pub fn new(cx: &'a ScanContext<'a>, total: usize) -> Self {
        let done = AtomicUsize::new(0);
        Self { cx, done, total }
    }

    fn step(&self) -> Result<(), DataError> {
        if (self.cx.interrupted)() {
            return Err(DataError::Interrupted);
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        // An unchanged image takes a microsecond, less than its report.
        if done.is_multiple_of(AT_ONCE) || done == self.total {
            (self.cx.progress)(done, self.total, "images");
        }
        Ok(())
    }
}

/// The result for a file: its index in the block, or a new digest.
struct Now {
    known: Option<usize>,
    stamp: Stamp,
    digest: Option<Digest>,
}

/// Examines the file `name` of a folder. The system finds it from the opened folder, which takes half the time of its whole path.
fn one(
    (folder, opened): (&Path, &File),
    name: &str,
    known: Option<(usize, &Known<'_>)>,
) -> Result<Now, DataError> {
    let refuse = |e: std::io::Error| DataError::at(&folder.join(name), e.to_string());
    let about = statat(opened, name, AtFlags::empty()).map_err(std::io::Error::from);
    let about = match about {
        Ok(about) => about,
        Err(error) if is_dangling(&error) => {
            return dangling(&folder.join(name)).ok_or_else(|| refuse(error));
        }
        Err(error) => return Err(refuse(error)),
    };
    let stamp = Stamp::of(&about);
    if let Some((at, _)) = known.filter(|(_, known)| known.stamp == stamp) {
        return Ok(Now {
            known: Some(at),
            stamp,
            digest: None,
        });
    }
    let mut file = files::open(&folder.join(name)).map_err(refuse)?;
    // The stamp is that of the bytes: a file that is replaced meanwhile is read again by the next scan.
    let about = fstat(&file).map_err(|e| refuse(e.into()))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(refuse)?;
    let digest = Some(Digest::of(&bytes));
    Ok(Now {
        known: None,
        stamp: Stamp::of(&about),
        digest,
    })
}

/// Returns the result for a link to nothing; `None` for any other file.
fn dangling(path: &Path) -> Option<Now> {
    let to = fs::read_link(path).ok()?;
    let about = rustix::fs::lstat(path).ok()?;
    let reason = format!(
        "is a link to {}, which does not exist or leads back to itself",
        to.display()
    );
    let digest = Some(Digest::unreadable(reason));
    Some(Now {
        known: None,
        stamp: Stamp::of(&about),
        digest,
    })
}
