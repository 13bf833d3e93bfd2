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
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let remedy = match error.kind() {
        StorageFull | QuotaExceeded => {
            "; free some space there, or set TESSERA_DATA to a folder elsewhere"
        }
        PermissionDenied | ReadOnlyFilesystem => "; set TESSERA_DATA to a writable folder",
        _ => "",
    };
    anyhow::anyhow!("{}: {error}{remedy}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn the_remedy_fits_the_error() {
        for (errno, freed, moved) in [
            (Errno::NOSPC, true, true),
            (Errno::DQUOT, true, true),
            (Errno::ACCESS, false, true),
            (Errno::ROFS, false, true),
            (Errno::NAMETOOLONG, false, false),
            (Errno::EXIST, false, false),
        ] {
            let said = unwritten(Path::new("x"), &errno.into()).to_string();
            assert_eq!(said.contains("free some space"), freed, "{said}");
            assert_eq!(said.contains("TESSERA_DATA"), moved, "{said}");
        }
    }
}
