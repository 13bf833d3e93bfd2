//! The errors of this crate.

use std::path::PathBuf;

use crate::config::ConfigError;

/// What can go wrong in making or running a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the suite is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that a tokenizer needs is not there. An `optional` row is skipped with this message.
    #[error("{at}; {remedy}")]
    Missing {
        /// Field, file and what is missing.
        at: ConfigError,
        /// How to get it.
        remedy: String,
    },
    /// A file would have to be downloaded, and [`BuildContext::fetch`](crate::BuildContext::fetch) forbids it: what follows from
    /// it is not known yet.
    #[error("{at}")]
    NotFetched {
        /// Field, file and where it would come from.
        at: ConfigError,
    },
    /// A file is there but is not what it should be.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, the remedy.
        message: String,
    },
    /// The data do not allow the fit.
    #[error("{0}")]
    Fit(String),
    /// The inference engine failed.
    #[error("{engine}: {message}")]
    Engine {
        /// "onnxruntime 1.24.4", "rten 0.27".
        engine: String,
        /// What it said.
        message: String,
    },
    /// This kind of tokenizer cannot do that.
    #[error("tokenizer kind `{kind}` does not support {what}")]
    Unsupported {
        /// The kind.
        kind: &'static str,
        /// What was asked.
        what: &'static str,
    },
    /// An image could not be read, cropped or resized.
    #[error("image {name}: {message}")]
    Image {
        /// File or index.
        name: String,
        /// What happened.
        message: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A device on which something is computed failed.
    #[error(transparent)]
    Device(#[from] tessera_kernels::device::launcher::DeviceError),
    /// A model of this program failed.
    #[error(transparent)]
    Model(#[from] tessera_models::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
