//! The errors of this crate.

use std::path::PathBuf;

/// An error in a model or in training.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// An operation of a device failed.
    #[error(transparent)]
    Device(#[from] tessera_kernels::device::launcher::DeviceError),
    /// A tensor does not have the expected shape or dtype.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Expected shape or dtype.
        expected: String,
        /// Actual shape or dtype.
        found: String,
    },
    /// A configuration is invalid.
    #[error("{0}")]
    Config(String),
    /// A checkpoint file cannot be read or written, or does not fit the model.
    #[error("{}: {message}", .path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The problem and its remedy.
        message: String,
    },
    /// Losses or gradients are not finite for several steps.
    #[error(
        "loss or gradients are not finite {in_row} steps in a row, the last is step {step} with loss {loss}; last good checkpoint: {last_good}; lower base_lr or lengthen warmup_epochs"
    )]
    NotFinite {
        /// The loss of the last step.
        loss: f64,
        /// Number of consecutive skipped steps.
        in_row: usize,
        /// The last of them, from 1.
        step: usize,
        /// Path of the resume state, or "none".
        last_good: String,
    },
    /// The last update produced parameters that are not finite.
    #[error(
        "the last update left parameters that are not finite; last good checkpoint: {last_good}; lower base_lr or lengthen warmup_epochs"
    )]
    Spoilt {
        /// Path of the resume state, or "none".
        last_good: String,
    },
    /// The caller requested a stop (SIGINT, SIGTERM); the training state is saved.
    #[error("interrupted")]
    Interrupted,
    /// The data source failed.
    #[error("{0}")]
    Data(String),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
