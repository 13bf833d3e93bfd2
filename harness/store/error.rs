//! Errors of the store and of run folders.

use std::io;
use std::path::{Path, PathBuf};

use tessera_models::files;

/// Why a stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A part of the store cannot be read or written.
    #[error("{}: {error}; make the store readable and writable, or choose another with --store DIR or TESSERA_STORE", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file of a run cannot be written.
    #[error("{}: {error}; make room or the place writable, or choose another with --out; of a finished run, `bench report` also takes a copy", .path.display())]
    Out {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file of a finished entry is not what the stage wrote. The entry is damaged; it counts as absent.
    #[error("{0}")]
    Damaged(String),
    /// The user asked to stop while another process held the lock.
    #[error("interrupted")]
    Interrupted,
    /// The stage itself failed.
    #[error(transparent)]
    Stage(#[from] anyhow::Error),
}

/// Writes `bytes` beside `path`, syncs and renames: after an error the file is unchanged.
///
/// # Errors
/// [`StoreError::Out`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    files::write_atomic(path, bytes).map_err(out_at(path))
}

pub(super) fn out_at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Out { path, error }
}

/// [`files::make_dir`] with the store's error.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    files::make_dir(path).map_err(at(path))
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io { path, error }
}
