//! Locks of keys and of run folders. Those of keys save work: two processes do not compute the same entry. The store is correct without
//! them.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How an attempt to take a lock ended.
pub enum Attempt {
    /// This process holds it.
    Taken(Lock),
    /// Another process or thread holds it.
    Busy,
}

/// A lock that is held until it is dropped; the system releases it when the process dies. Dropping removes its file.
pub struct Lock {
    /// `None` if the file system has no locks.
    file: Option<File>,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, whose folder exists. Where the file cannot be locked, or its
    /// name leads elsewhere for two seconds (a cache of names), the lock excludes nobody.
    ///
    /// # Errors
    /// If its file cannot be created.
    pub fn attempt(path: &Path) -> io::Result<Attempt> {
        // The loop ends also on file systems that give one file several inode numbers, or whose names stay cached for long.
        for _ in 0..100 {
            let opened = File::options()
                .create(true)
                .truncate(false)
                // Opening a pipe of this name to write only would wait for somebody who reads it.
                .read(true)
                .write(true)
                // Its holder writes his name into it: not into another file to which a link of this name leads.
                .custom_flags(libc::O_NOFOLLOW)
                .open(path);
            let file = match opened {
                Ok(file) => file,
                // The name is cached, and its last holder has removed the file.
                Err(error) if is_stale(&error) || is_absent(&error) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match file.try_lock() {
                // Its last holder has removed it: another process may hold a new one.
                Ok(()) if !is_at(&file, path) => {
                    // Others must not find the removed file locked meanwhile.
                    drop(file);
                    std::thread::sleep(PAUSE);
                }
                Ok(()) => return Ok(Attempt::Taken(Self::held(Some(file), path))),
                Err(TryLockError::WouldBlock) => return Ok(Attempt::Busy),
                Err(TryLockError::Error(_)) => break,
            }
        }
        Ok(Attempt::Taken(Self::held(None, path)))
    }

    /// Whether somebody holds the lock at `path`. Takes it shared for a moment if nobody does.
    ///
    /// # Errors
    /// If its file cannot be opened or locked, other than because it is absent.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        // Opening a pipe of this name would wait for somebody who writes, and the lock may be another user's.
        let mut options = File::options();
        let file = match options.read(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if is_stale(&error) || is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Writes who holds it into its file, for messages of others. Errors are ignored.
    pub fn sign(&self, text: &str) {
        if let Some(mut file) = self.file.as_ref() {
            let _ = file
                .set_len(0)
                .and_then(|()| file.write_all(text.as_bytes()));
        }
    }

    fn held(file: Option<File>, path: &Path) -> Self {
        let path = path.to_owned();
        Self { file, path }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the release: afterwards the file may belong to another process. If the folder was moved, it does so now.
        if (self.file.as_ref()).is_none_or(|file| is_at(file, &self.path)) {
            let _ = fs::remove_file(&self.path);
        }
        drop(self.file.take());
    }
}

/// Pause between two attempts to open a file whose name is cached: FUSE caches names for a second by default.
const PAUSE: Duration = Duration::from_millis(20);

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Whether a cache of names led to a file or folder that another machine has replaced or removed.
pub(super) fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => same(held, there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As with a cached name, the file cannot be opened at first.
    #[test]
    fn a_file_that_cannot_be_opened_yet_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("late");
        let path = folder.join("lock");
        let taken = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(3 * PAUSE);
                fs::create_dir(&folder).unwrap();
            });
            Lock::attempt(&path).unwrap()
        });
        assert!(matches!(taken, Attempt::Taken(Lock { file: Some(_), .. })));
        assert!(matches!(Lock::attempt(&path).unwrap(), Attempt::Busy));
    }

    /// The test would wait for ever where the opening does.
    #[test]
    fn a_pipe_of_its_name_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let taken = Lock::attempt(&path).unwrap();
        assert!(matches!(taken, Attempt::Taken(_)));
        drop(taken);
        assert!(!path.exists());
    }
}
