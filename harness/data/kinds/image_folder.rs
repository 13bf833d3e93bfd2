//! `train/<class>/*` and `val/<class>/*`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Config, ConfigError, Fingerprint, Split, schemars};

use crate::data::classes::{Found, choose};
use crate::data::contract::{DatasetFactory, DatasetSpec, PixelSource, ScanContext};
use crate::data::decode::is_image;
use crate::data::decoding::{DecodedCache, Decoding};
use crate::data::digest::{Digest, Stamp, recall, remember};
use crate::data::encoded::{Encoded, Scanned, assemble};
use crate::data::error::DataError;
use crate::data::scan::Scan;

/// Factory of `image-folder`.
pub struct Factory;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The folder with `train` and `val`.
    root: PathBuf,
    /// A file with one class folder name per line (what follows a tab, or a name and a space, is ignored), in label order.
    classes: Option<PathBuf>,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size if no more is rendered. Faster on large images, but the pixels differ from
    /// those of the resampled original: everything is computed again, and tables say so.
    #[serde(default)]
    fast_decode: bool,
    /// `u8`: decode every image once into a file of the store, which is mapped into memory. No result changes. `--dry-run` prints its
    /// size (three bytes per pixel, images at their own size).
    decoded_cache: Option<DecodedCache>,
}

impl DatasetFactory for Factory {
    fn kind(&self) -> &'static str {
        "image-folder"
    }

    fn summary(&self) -> &'static str {
        "train/<class>/* and val/<class>/*, JPEG, PNG or WebP"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let fields: Fields = with.parse()?;
        Ok(Box::new(ImageFolder {
            root: with.resolve_path(fields.root),
            classes: fields.classes.map(|c| with.resolve_path(c)),
            decoding: Decoding::of_fields(with, fields.fast_decode, fields.decoded_cache)?,
        }))
    }
}

/// `train/<class>/*` and `val/<class>/*`.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    /// The folder with `train` and `val`.
    pub root: PathBuf,
    /// A file with one class folder per line, in label order.
    pub classes: Option<PathBuf>,
    /// How images are decoded.
    pub decoding: Decoding,
}

impl DatasetSpec for ImageFolder {
    fn decoding(&self) -> Decoding {
        self.decoding
    }

    fn scan(&self, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
        scan(&self.root, self.classes.as_deref(), cx)
    }

    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError> {
        Ok(PixelSource::Encoded(Box::new(Files {
            root: self.root.clone(),
            train: scan.train.names.clone(),
            val: scan.val.names.clone(),
        })))
    }
}

/// The paths of images that decode.
pub struct Files {
    root: PathBuf,
    train: Vec<String>,
    val: Vec<String>,
}

impl Files {
    /// Creates a val split from paths.
    pub fn alone(paths: Vec<String>) -> Self {
        Self {
            root: PathBuf::new(),
            train: Vec::new(),
            val: paths,
        }
    }

    fn path(&self, split: Split, index: usize) -> PathBuf {
        let names = if split == Split::Train {
            &self.train
        } else {
            &self.val
        };
        self.root.join(&names[index])
    }
}

impl Encoded for Files {
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError> {
        let path = self.path(split, index);
        let gone = |e| DataError::at(&path, format!("{e}; it was there when the run began"));
        fs::read(&path).map_err(gone)
    }

    fn refuse(&self, split: Split, index: usize, message: String) -> DataError {
        DataError::at(&self.path(split, index), message)
    }
}

struct Candidate {
    name: String,
    label: u32,
}

/// Cached result for a file.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    digest: Digest,
}

fn scan(root: &Path, list: Option<&Path>, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
    let classes = classes(root, list)?;
    let splits = [
        candidates(root, "train", &classes)?,
        candidates(root, "val", &classes)?,
    ];
    let total = splits[0].len() + splits[1].len();
    let key = Fingerprint::of(&[root.to_string_lossy().as_bytes()]);
    let cache = cx.cache.join(format!("{}.json", &key.0[..32]));
    let known: HashMap<String, Known> = recall(&cache).unwrap_or_default();
    let done = AtomicUsize::new(0);
    let examine = |c: &Candidate| {
        if (cx.interrupted)() {
            return Err(DataError::Interrupted);
        }
        let now = examine(&root.join(&c.name), known.get(&c.name))?;
        (cx.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total, "images");
        Ok(now)
    };
    let [train, val] = &splits;
    let examine_all =
        |split: &[Candidate]| split.par_iter().map(examine).collect::<Result<Vec<_>, _>>();
    let examined = [examine_all(train)?, examine_all(val)?];
    let pairs = splits.iter().flatten().zip(examined.iter().flatten());
    let now: BTreeMap<&str, &Known> = pairs.map(|(c, known)| (c.name.as_str(), known)).collect();
    remember(&cache, &now);
    let mut examined = examined.into_iter();
    let images = splits.map(|split| {
        let examined = examined.next().unwrap_or_default();
        let images = split.into_iter().zip(examined).map(|(c, known)| Scanned {
            name: c.name,
            label: c.label,
            digest: known.digest,
            place: None,
        });
        images.collect()
    });
    let name = root.file_name().map(|n| n.to_string_lossy().into_owned());
    assemble(name.unwrap_or_else(|| "images".into()), classes, images)
}

/// Returns the class folders in label order: those of the list, or all of `train` in bytewise order. `val` must have the same.
fn classes(root: &Path, list: Option<&Path>) -> Result<Vec<String>, DataError> {
    for split in ["train", "val"] {
        let path = root.join(split);
        if !path.is_dir() {
            return Err(DataError::at(
                &path,
                "no such folder; expected train/<class>/* and val/<class>/* below `root`; move the images or correct `root`",
            ));
        }
    }
    let found = Found {
        train: &folders(&root.join("train"))?,
        val: &folders(&root.join("val"))?,
        places: ["train", "val"].map(|split| root.join(split).display().to_string()),
        lacks: "has no folder in",
    };
    let classes = choose(&found, list, root)?;
    if classes.is_empty() {
        return Err(DataError::at(
            &root.join("train"),
            "contains no class folders; expected train/<class>/*",
        ));
    }
    Ok(classes)
}

fn candidates(root: &Path, split: &str, classes: &[String]) -> Result<Vec<Candidate>, DataError> {
    let mut all = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let path = root.join(split).join(class);
        let names = names(&path, is_image)?;
        if names.is_empty() {
            return Err(DataError::at(
                &path,
                "no images in this class folder (expected .jpg, .jpeg, .png or .webp); remove the folder or fill it",
            ));
        }
        all.extend(names.into_iter().map(|n| Candidate {
            name: format!("{split}/{class}/{n}"),
            label: label as u32,
        }));
    }
    Ok(all)
}

fn folders(path: &Path) -> Result<Vec<String>, DataError> {
    names(path, Path::is_dir)
}

/// Returns the sorted names of the entries of `folder` that `is_wanted` accepts.
fn names(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>, DataError> {
    let refuse = |e: std::io::Error| DataError::at(folder, e.to_string());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        if is_wanted(&entry.path()) {
            let name = entry.file_name().into_string();
            let unreadable = |_| DataError::at(&entry.path(), "the name is not UTF-8; rename it");
            names.push(name.map_err(unreadable)?);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn examine(path: &Path, known: Option<&Known>) -> Result<Known, DataError> {
    let refuse = |e: std::io::Error| DataError::at(path, e.to_string());
    let about = fs::metadata(path).map_err(refuse)?;
    if !about.is_file() {
        // Reading a pipe waits for ever.
        let message = "is a folder, pipe or device, expected an image file; remove it";
        return Err(DataError::at(path, message));
    }
    let stamp = Stamp::of(&about);
    if let Some(known) = known.filter(|known| known.stamp == stamp) {
        return Ok(known.clone());
    }
    let bytes = fs::read(path).map_err(refuse)?;
    Ok(Known {
        stamp,
        digest: Digest::of(&bytes),
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_name_that_is_not_utf8_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let odd = |name| dir.path().join(OsStr::from_bytes(name));
        fs::write(odd(b"notes\xff.txt"), b"").unwrap();
        assert!(names(dir.path(), is_image).unwrap().is_empty());
        fs::write(odd(b"image\xff.png"), b"").unwrap();
        fs::create_dir(odd(b"class\xff")).unwrap();
        for (found, name) in [
            (names(dir.path(), is_image), "image"),
            (folders(dir.path()), "class"),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("not UTF-8; rename it"),
                "{error}"
            );
        }
    }
}
