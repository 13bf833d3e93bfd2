//! Errors of datasets.

use std::path::{Path, PathBuf};

use super::left_out::one_line;

/// Error of a dataset.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A folder or file is missing or invalid.
    #[error("{}: {message}", one_line(&.path.to_string_lossy()))]
    Path {
        /// The folder or file.
        path: PathBuf,
        /// What was found, what was expected, and the remedy.
        message: String,
    },
    /// Too many images are broken.
    #[error(
        "{broken} of {total} images do not decode, expected at most 1 %: {first}; remove or replace them"
    )]
    TooManyBroken {
        /// Number of images that do not decode.
        broken: usize,
        /// Number of all images.
        total: usize,
        /// Names of the first broken images, with reasons.
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
    /// Returns an error about `path`.
    pub fn at(path: &Path, message: impl Into<String>) -> Self {
        Self::Path {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}
