//! A run folder into which this process writes.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tessera_models::files;

use super::earlier::Earlier;
use super::layout::{LOCK, LOG, RESULTS, SUMS, VISIBLE};
use super::{links, sums};
use crate::store::{self, Attempt, Lock, host, write_atomic};

/// A locked run folder. The lock ends when it is dropped, or when the process dies.
pub struct RunFolder {
    path: PathBuf,
    /// The folder, wherever it is.
    open: File,
    /// Its file system and its inode.
    id: (u64, u64),
    _lock: Lock,
}

impl RunFolder {
    /// Creates the run folder of a suite and locks it. Others who want it are told `command`.
    ///
    /// # Errors
    /// If it cannot be written, contains other files but no results or the results of another suite, or another process writes into it.
    pub fn prepare(out: &Path, suite: &str, command: &str) -> anyhow::Result<Self> {
        const OTHERWISE: &str = "choose another folder with --out";
        let remedy = || {
            let out = out.display();
            format!("{out}: choose a writable folder with --out")
        };
        fs::create_dir_all(out).with_context(remedy)?;
        let entries = fs::read_dir(out).with_context(remedy)?;
        let names = entries.map(|entry| Ok(entry.with_context(remedy)?.file_name()));
        let names = names.collect::<anyhow::Result<Vec<_>>>()?;
        let foreign = names.into_iter().find(|name| {
            let name = name.to_string_lossy();
            // Versions before 0.2 wrote `results.csv.tmp-123`.
            let name = name.split(".tmp-").next().unwrap_or_default();
            !name.is_empty() && !name.starts_with('.') && !VISIBLE.contains(&name)
        });
        if let Some(name) = foreign.filter(|_| !out.join(RESULTS).exists()) {
            bail!(
                "{} contains {:?} and no {RESULTS}, so it is not a run folder; choose an empty or a new folder with --out",
                out.display(),
                name.to_string_lossy()
            );
        }
        check_place(&out.join(LOG), OTHERWISE)?;
        let folder = Self::lock(out, command, OTHERWISE)?;
        let earlier = Earlier::of(out)?;
        if let Some(other) = earlier.suite_name().filter(|other| *other != suite) {
            let changed = match sums::has_changed(out, RESULTS) {
                true => format!(" ({RESULTS} has changed since the run, see {SUMS})"),
                false => String::new(),
            };
            bail!(
                "{} holds a run of the suite `{other}`{changed}, expected `{suite}` or none; {OTHERWISE}, or remove this one",
                out.display()
            );
        }
        sweep(out)?;
        // The file has no name, so that another run in the folder does not remove it.
        tempfile::tempfile_in(out).with_context(remedy)?;
        Ok(folder)
    }

    /// Locks an existing run folder. Errors say what the user may do `otherwise`.
    ///
    /// # Errors
    /// If another process writes into it, or its lock cannot be created.
    pub fn lock(out: &Path, command: &str, otherwise: &str) -> anyhow::Result<Self> {
        let path = out.join(LOCK);
        check_place(&path, otherwise)?;
        links::check(out)?;
        let mut attempt = Lock::attempt(&path);
        if matches!(attempt, Ok(Attempt::Busy)) {
            // `bench runs` holds it for an instant, to see whether a run on another machine does.
            std::thread::sleep(Duration::from_millis(50));
            attempt = Lock::attempt(&path);
        }
        let attempt = attempt.with_context(|| path.display().to_string());
        match attempt.with_context(|| otherwise.to_owned())? {
            Attempt::Taken(lock) => {
                lock.sign(&format!("{} on {} ({command})", std::process::id(), host()));
                let opened = File::open(out).and_then(|open| Ok((open.metadata()?, open)));
                let (about, open) = opened.with_context(|| out.display().to_string())?;
                Ok(Self {
                    path: out.to_owned(),
                    open,
                    id: (about.dev(), about.ino()),
                    _lock: lock,
                })
            }
            Attempt::Busy => {
                let holder = files::read_to_string(&path).unwrap_or_default();
                bail!(
                    "{}: process {holder} writes into this folder; wait for it or stop it, or {otherwise}",
                    out.display()
                )
            }
        }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its path, for writing, while this still is the folder that was locked: another run may have one of the same name.
    ///
    /// # Errors
    /// If it was moved or removed, or the file system does not answer.
    pub fn here(&self) -> anyhow::Result<&Path> {
        let path = || self.path.display().to_string();
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == self.id => return Ok(&self.path),
            Err(error) if !files::says_absent(&error) => return Err(error).with_context(path),
            _ => (),
        }
        let now = fs::read_link(format!("/proc/self/fd/{}", self.open.as_raw_fd()));
        let is_removed = self.open.metadata().with_context(path)?.nlink() == 0;
        let (what, remedy) = match now.ok().filter(|_| !is_removed) {
            Some(now) => (
                format!("moved to {}", now.display()),
                "move it back if nothing is there now, and run",
            ),
            None => ("removed".to_owned(), "run"),
        };
        bail!(
            "{} was {what} while this process wrote into it, so nothing more is written there; the store keeps what was finished; {remedy} \
             the same command again",
            path()
        )
    }

    /// Writes the file at `path` in it, as [`write_atomic`].
    ///
    /// # Errors
    /// Those of [`here`](Self::here) and [`write_atomic`].
    pub fn put(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        self.here()?;
        self.explained(write_atomic(path, bytes))
    }

    /// Replaces the error of an access to the folder by that of [`here`](Self::here), if it follows from it.
    ///
    /// # Errors
    /// One of the two.
    pub fn explained<T, E: Into<anyhow::Error>>(&self, access: Result<T, E>) -> anyhow::Result<T> {
        access.map_err(|error| self.here().err().unwrap_or_else(|| error.into()))
    }
}

/// Refuses a pipe, a device or a folder in place of a file that is opened for writing.
fn check_place(path: &Path, otherwise: &str) -> anyhow::Result<()> {
    let refused = |error| anyhow!("{}: {error}; remove it, or {otherwise}", path.display());
    files::check_place(path).map_err(refused)
}

/// Removes temporary files of dead processes from the folder and its subfolders.
fn sweep(folder: &Path) -> anyhow::Result<()> {
    store::sweep(folder);
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(&entry.path())?;
        }
    }
    Ok(())
}
