//! Errors of this crate.

use std::path::PathBuf;

use crate::config::ConfigError;

/// Error of building, fitting or running a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the suite is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that a tokenizer needs does not exist. An `optional` row is skipped with this message.
    #[error("{at}; {remedy}")]
    Missing {
        /// Field and missing file.
        at: ConfigError,
        /// How to get it.
        remedy: String,
    },
    /// A file must be downloaded, but [`BuildContext::fetch`](crate::BuildContext::fetch) forbids it.
    #[error("{at}")]
    NotFetched {
        /// Field, file and its source.
        at: ConfigError,
    },
    /// A program must be started, but [`BuildContext::programs`](crate::BuildContext::programs) forbids it.
    #[error("{at}")]
    NotStarted {
        /// Field and program.
        at: ConfigError,
    },
    /// A file is invalid or cannot be read.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and expected, and the remedy.
        message: String,
    },
    /// The data do not allow the fit.
    #[error("{0}")]
    Fit(String),
    /// The inference engine failed.
    #[error("{engine}: {message}")]
    Engine {
        /// Name and version: "onnxruntime 1.24.4", "rten 0.27.0".
        engine: String,
        /// Its message.
        message: String,
    },
    /// This kind of tokenizer does not support an operation.
    #[error("tokenizer kind `{kind}` does not support {what}")]
    Unsupported {
        /// The kind.
        kind: &'static str,
        /// The operation.
        what: &'static str,
    },
    /// An image could not be read, cropped or resized.
    #[error("image {name}: {message}")]
    Image {
        /// File or index.
        name: String,
        /// The reason.
        message: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A device failed.
    #[error(transparent)]
    Device(#[from] tessera_kernels::device::launcher::DeviceError),
    /// A model of this program failed.
    #[error(transparent)]
    Model(#[from] tessera_models::Error),
    /// The caller interrupted the work.
    #[error("interrupted")]
    Interrupted,
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
