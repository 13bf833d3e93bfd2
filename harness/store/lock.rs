//! Locks of keys. They save work: two processes do not compute the same entry. Nothing is wrong where a file system has none.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How an attempt to take a lock ended.
pub(super) enum Attempt {
    Taken(Lock),
    /// Another process, or another thread, has it.
    Busy,
}

/// Held while it lives; the system drops it when the process dies. Its file goes with it.
pub(super) struct Lock {
    /// `None` where the file system has no locks.
    file: Option<File>,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, whose folder is there.
    pub fn attempt(path: &Path) -> io::Result<Attempt> {
        // Some file systems give one file several numbers: there, too, this comes to an end.
        for _ in 0..100 {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)?;
            match file.try_lock() {
                // Its last holder has removed it meanwhile: another process may hold a new one.
                Ok(()) if !is_at(&file, path) => continue,
                Ok(()) => return Ok(Attempt::Taken(Self::held(Some(file), path))),
                Err(TryLockError::WouldBlock) => return Ok(Attempt::Busy),
                Err(TryLockError::Error(_)) => break,
            }
        }
        Ok(Attempt::Taken(Self::held(None, path)))
    }

    fn held(file: Option<File>, path: &Path) -> Self {
        let path = path.to_owned();
        Self { file, path }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock goes: afterwards it might be another's.
        let _ = fs::remove_file(&self.path);
        drop(self.file.take());
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => same(held, there),
        _ => false,
    }
}
