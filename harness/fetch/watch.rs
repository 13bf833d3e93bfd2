//! What the parts of a fetch share: progress, interruption, and the error of a full disk.

use std::io;
use std::path::Path;

use anyhow::bail;

/// How a fetch reports, and when it stops.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Receives the progress: done, total, note. Without a total, the note is a message.
    pub progress: &'a dyn Fn(usize, usize, &str),
    /// Polled between blocks and files; true ends the fetch with an error and keeps what is downloaded.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl Watch<'_> {
    /// Returns an error if the fetch shall end.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match (self.interrupted)() {
            true => bail!("interrupted"),
            false => Ok(()),
        }
    }

    /// Shows a message.
    pub(super) fn tell(&self, note: &str) {
        (self.progress)(0, 0, note);
    }
}

/// Returns the error of a file in the cache that cannot be written.
pub(super) fn unwritten(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "{}: {error}; free some space there, or set TESSERA_DATA to another writable folder",
        path.display()
    )
}
