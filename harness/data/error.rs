//! What can be wrong with images.

use std::path::{Path, PathBuf};

/// What can be wrong with the images.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A folder or file is absent or is not what it should be.
    #[error("{}: {message}", .path.display())]
    Path {
        /// The folder or file.
        path: PathBuf,
        /// What was expected, what was found, the remedy.
        message: String,
    },
    /// Too many images are broken to go on.
    #[error(
        "{broken} of {total} images do not decode (at most 1 % may); the first: {first}; remove or replace them"
    )]
    TooManyBroken {
        /// Images that don't decode.
        broken: usize,
        /// All images.
        total: usize,
        /// One of them and why.
        first: String,
    },
    /// A split or a class has no images.
    #[error("{0}")]
    Empty(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl DataError {
    /// What is wrong at `path`.
    pub fn at(path: &Path, message: impl Into<String>) -> Self {
        Self::Path {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}
