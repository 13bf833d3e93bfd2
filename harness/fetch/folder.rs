//! The folder of a fetched dataset: whether it is the whole official one, and how it gets there.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{bail, ensure};
use tessera_models::files;

use super::Archive;
use super::unpack::{required, unpack};
use super::watch::{Watch, unwritten};
use crate::store::sweep;

/// The file in the folder with the SHA-256 of its archive. It is written last.
const MARK: &str = ".fetched";

/// Returns whether the dataset of the archive is in the folder `cache`, as this program unpacked it. The contents of files are not looked at.
///
/// # Errors
/// If its name is taken by something else, if it comes from another archive, or if files are missing.
pub fn is_in(cache: &Path, archive: &Archive) -> anyhow::Result<bool> {
    let name = archive.dataset.name();
    let folder = cache.join(name);
    let shown = folder.display();
    if fs::symlink_metadata(&folder).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Ok(false);
    }
    match fs::metadata(&folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => bail!("{shown}: is no folder; move it away"),
        Err(error) => bail!("{shown}: {error}; is it a link to nothing? remove it"),
    }
    let remedy = format!(
        "move it away, and `bench fetch {name}` downloads the official archive; suites use the folder as it is"
    );
    let Ok(mark) = files::read(&folder.join(MARK)) else {
        bail!("{shown}: was not fetched by this program (it has no file {MARK}); {remedy}");
    };
    let mark = String::from_utf8_lossy(&mark);
    ensure!(
        mark.trim_end() == archive.sha256,
        "{shown}: comes from another archive (found SHA-256 {:.64}, expected {}); {remedy}",
        mark.trim_end(),
        archive.sha256
    );
    for part in required(archive.dataset) {
        ensure!(
            folder.join(part).exists(),
            "{shown}: {part} is missing; {remedy}"
        );
    }
    Ok(true)
}

/// Unpacks the file of an archive beside its folder in `cache` and renames the result. Another process may do the same at the same time, where
/// locks do not work; the first stays. Returns whether this one did.
///
/// # Errors
/// If the archive is not what it should be, or if a file cannot be written.
pub fn place(
    path: &Path,
    archive: &Archive,
    cache: &Path,
    watch: Watch<'_>,
) -> anyhow::Result<bool> {
    let name = archive.dataset.name();
    // Of processes that were killed.
    sweep(cache);
    let beside = cache.join(files::temporary(&format!(".{name}.unpacking")));
    watch.tell(&format!("unpacking {}", path.display()));
    let filled = fill(path, archive, &beside, watch);
    let placed = filled.and_then(|()| renamed(&beside, archive, cache));
    if !matches!(placed, Ok(true)) {
        let _ = fs::remove_dir_all(&beside);
    }
    placed
}

/// Fills the new folder `to` and writes it to the disk.
fn fill(path: &Path, archive: &Archive, to: &Path, watch: Watch<'_>) -> anyhow::Result<()> {
    let written = unpack(path, archive.dataset, to, watch)?;
    let found = count(to).map_err(|e| unwritten(to, &e))?;
    ensure!(
        found == written,
        "{}: found {found} files after writing {written}; another program changes this folder; try again",
        to.display()
    );
    let mark = to.join(MARK);
    fs::write(&mark, format!("{}\n", archive.sha256)).map_err(|e| unwritten(&mark, &e))?;
    synced(to).map_err(|e| unwritten(to, &e))
}

/// Renames the folder; false if another process was faster.
fn renamed(beside: &Path, archive: &Archive, cache: &Path) -> anyhow::Result<bool> {
    let folder = cache.join(archive.dataset.name());
    match fs::rename(beside, &folder) {
        Ok(()) => Ok(true),
        Err(_) if is_in(cache, archive)? => Ok(false),
        Err(error) => Err(unwritten(&folder, &error)),
    }
}

/// Returns the number of files in a folder and those below it.
fn count(folder: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files += match entry.file_type()?.is_dir() {
            true => count(&entry.path())?,
            false => 1,
        };
    }
    Ok(files)
}

/// Writes all files of the folder's file system to the disk: a rename may otherwise survive a power failure that the files do not.
fn synced(folder: &Path) -> io::Result<()> {
    let opened = File::open(folder)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&opened)?;
    #[cfg(not(target_os = "linux"))]
    rustix::fs::sync();
    opened.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Fetched;

    #[test]
    fn the_slower_of_two_processes_leaves_the_folder_of_the_first() {
        let cache = tempfile::tempdir().unwrap();
        let cache = cache.path();
        let archive = Archive::official(Fetched::Cifar100);
        let folder = cache.join("cifar100");
        let fresh = |name: &str| {
            let path = cache.join(name);
            fs::create_dir(&path).unwrap();
            for name in required(archive.dataset) {
                fs::write(path.join(name), name).unwrap();
            }
            path
        };
        let first = fresh("a");
        fs::write(first.join(MARK), &archive.sha256).unwrap();
        assert!(renamed(&first, &archive, cache).unwrap());
        assert!(!renamed(&fresh("b"), &archive, cache).unwrap());
        assert!(is_in(cache, &archive).unwrap());
        // A full folder of somebody else is neither replaced nor taken for the dataset.
        fs::remove_file(folder.join(MARK)).unwrap();
        let error = renamed(&cache.join("b"), &archive, cache).unwrap_err();
        assert!(error.to_string().contains("was not fetched"), "{error}");
        fs::write(folder.join(MARK), &archive.sha256).unwrap();
        fs::remove_file(folder.join("test.bin")).unwrap();
        let error = is_in(cache, &archive).unwrap_err().to_string();
        assert!(error.contains("test.bin is missing"), "{error}");
    }
}
