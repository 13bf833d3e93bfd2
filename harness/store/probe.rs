//! What a folder's file system does on this machine, found out by trying.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tessera_models::files;

use super::mount::existing;

/// Returns a sentence for each property of the file system of the nearest existing folder at or above `path`. Entries need the first two.
///
/// # Errors
/// If the folder cannot be written.
pub fn probe(path: &Path) -> io::Result<Vec<String>> {
    let folder = existing(path).ok_or(io::ErrorKind::NotFound)?;
    // Such a name is removed with those of dead processes.
    let scratch = folder.join(files::temporary(""));
    fs::create_dir(&scratch)?;
    let found = tried(&scratch);
    fs::remove_dir_all(&scratch)?;
    found
}

fn tried(scratch: &Path) -> io::Result<Vec<String>> {
    let at = |name: &str| scratch.join(name);
    fs::write(at("file"), b"x")?;
    for name in ["full", "new"] {
        fs::create_dir(at(name))?;
        fs::write(at(name).join("file"), name)?;
    }
    let again = File::create_new(at("file")).map_err(|error| error.kind());
    let over = fs::rename(at("new"), at("full")).map_err(|error| error.kind());
    let replaced = over.is_ok() || files::read(&at("full/file"))? != b"full";
    let before = fs::metadata(at("file"))?;
    fs::rename(at("file"), at("other"))?;
    let after = fs::metadata(at("other"))?;
    Ok(vec![
        say(
            matches!(again, Err(io::ErrorKind::AlreadyExists)),
            "a file is created once",
            "two processes can create one file: put the store elsewhere",
        ),
        say(
            !replaced,
            "a folder does not replace a full one",
            "a folder replaces a full one: put the store elsewhere",
        ),
        locks(&at("lock"))?,
        say(
            before.ino() == after.ino(),
            "a renamed file keeps its inode",
            "a renamed file has another inode: the scan reads images again",
        ),
        say(
            fs::hard_link(at("other"), at("link")).is_ok(),
            "hard links",
            "no hard links",
        ),
        say(
            cloned(&at("other"), &at("clone")).is_ok(),
            "copies in run folders share blocks",
            "copies in run folders take room of their own",
        ),
    ])
}

fn say(holds: bool, yes: &str, no: &str) -> String {
    if holds { yes } else { no }.to_owned()
}

/// Locks a file twice, as two processes of this machine do.
fn locks(path: &Path) -> io::Result<String> {
    let open = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    };
    let (first, second) = (open()?, open()?);
    Ok(match (first.try_lock(), second.try_lock()) {
        (Ok(()), Err(TryLockError::WouldBlock)) => {
            "two locks of a file exclude each other on this machine".into()
        }
        (Err(TryLockError::Error(error)), _) => {
            format!("no locks ({error}), so processes may compute a stage twice")
        }
        _ => "locks exclude nobody, so processes may compute a stage twice".into(),
    })
}

fn cloned(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (files::open(from)?, File::create(to)?);
    Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_probed_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let found = probe(&dir.path().join("not/there/yet")).unwrap();
        assert_eq!(found[0], "a file is created once");
        assert_eq!(found[1], "a folder does not replace a full one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
