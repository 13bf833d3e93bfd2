//! `bench fetch`: downloads the official archive of a dataset, compares its SHA-256, and unpacks it into a folder that suites read.
//!
//! The archive is downloaded to `CACHE/FILE.part` and resumed there. It is unpacked into a temporary folder, which is renamed at the end, so
//! `CACHE/NAME` is whole or absent. A hidden file in it has the checksum of its archive.

mod archive;
#[cfg(feature = "hub")]
mod download;
mod folder;
mod unpack;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tessera_models::files;
use tessera_models::foreign::lost_of;

use crate::sha256::sha256;
use crate::store::{Attempt, Lock};

pub use archive::Archive;
pub use folder::is_in;
pub use watch::Watch;
use watch::unwritten;

/// What [`fetch`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The folder was there, from the same archive; the contents of its files were not looked at.
    Nothing,
    /// The archive was unpacked.
    Unpacked,
}

/// Fills the folder of a dataset in `cache` from its archive, unless it is there. Returns the folder.
///
/// # Errors
/// If the archive cannot be downloaded or read, has another checksum or content than expected, if the cache cannot be written, if another
/// process fetches the same dataset, or if its folder is not the archive's.
pub fn fetch(archive: &Archive, cache: &Path, watch: Watch<'_>) -> anyhow::Result<(PathBuf, Done)> {
    let name = archive.dataset.name();
    let folder = cache.join(name);
    if is_in(cache, archive)? {
        return Ok((folder, Done::Nothing));
    }
    fs::create_dir_all(cache).map_err(|e| unwritten(cache, &e))?;
    let path = cache.join(format!(".{name}.lock"));
    let attempt = files::check_place(&path).and_then(|()| Lock::attempt(&path));
    let Attempt::Taken(_lock) = attempt.map_err(|e| unwritten(&path, &e))? else {
        bail!(
            "{}: another process fetches {name}; wait for it",
            path.display()
        );
    };
    // The other process may have ended meanwhile.
    if is_in(cache, archive)? {
        return Ok((folder, Done::Nothing));
    }
    let source = Source::of(archive, cache, watch)?;
    source.verify(archive, watch)?;
    let is_first = folder::place(&source.path, archive, cache, watch)?;
    source.forget();
    let done = match is_first {
        true => Done::Unpacked,
        false => Done::Nothing,
    };
    Ok((folder, done))
}

/// The file of an archive.
struct Source {
    path: PathBuf,
    is_ours: bool,
}

impl Source {
    /// Finds the archive, or downloads it into `cache`.
    fn of(archive: &Archive, cache: &Path, watch: Watch<'_>) -> anyhow::Result<Self> {
        if !archive.is_remote() {
            let (path, is_ours) = (PathBuf::from(&archive.from), false);
            return Ok(Self { path, is_ours });
        }
        let path = cache.join(format!("{}.part", archive.file()));
        download(archive, &path, watch)?;
        let is_ours = true;
        Ok(Self { path, is_ours })
    }

    /// Compares the checksum. A download with another one is removed, because it cannot be resumed.
    fn verify(&self, archive: &Archive, watch: Watch<'_>) -> anyhow::Result<()> {
        let found = sha256(&self.path, || watch.check())
            .with_context(|| format!("{}: cannot be read", self.path.display()))?;
        if found == archive.sha256 {
            return Ok(());
        }
        let what = lost_of(&self.path).map_or_else(String::new, |what| format!(" (it {what})"));
        let remedy = match self.is_ours {
            true => "the download is removed; try again, or name another address with --from",
            false => "name another file with --from",
        };
        self.forget();
        bail!(
            "{}: found SHA-256 {found}{what}, expected {} for {}; {remedy}",
            archive.from,
            archive.sha256,
            archive.dataset.name()
        );
    }

    fn forget(&self) {
        if self.is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(feature = "hub")]
fn download(archive: &Archive, part: &Path, watch: Watch<'_>) -> anyhow::Result<()> {
    download::download(archive, part, watch)
}

#[cfg(not(feature = "hub"))]
fn download(archive: &Archive, _: &Path, _: Watch<'_>) -> anyhow::Result<()> {
    bail!(
        "this program was built without the feature `hub`, which downloads; download {} and name the file with --from",
        archive.from
    )
}
