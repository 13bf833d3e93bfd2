//! The errors of this crate.

use std::path::PathBuf;

/// What can go wrong in models and training.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A tensor does not have the promised shape or dtype.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// What the caller promised.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// A configuration that cannot be built or trained.
    #[error("{0}")]
    Config(String),
    /// A checkpoint file cannot be read, written or does not fit the model.
    #[error("{}: {message}", .path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Losses or gradients stopped being finite.
    #[error(
        "loss or gradients are not finite {in_row} steps in a row, the last is step {step} with loss {loss}; last good checkpoint: {last_good}; lower base_lr or lengthen warmup_epochs"
    )]
    NotFinite {
        /// The loss of the last step.
        loss: f64,
        /// Steps in a row that were skipped.
        in_row: usize,
        /// The last of them, from 0.
        step: usize,
        /// Where training can go on from, or "none".
        last_good: String,
    },
    /// Training ended with parameters that are not finite.
    #[error(
        "the last update left parameters that are not finite; last good checkpoint: {last_good}; lower base_lr or lengthen warmup_epochs"
    )]
    Spoilt {
        /// Where training can go on from, or "none".
        last_good: String,
    },
    /// The caller asked to stop (SIGINT, SIGTERM); state is kept.
    #[error("interrupted")]
    Interrupted,
    /// The data source failed.
    #[error("{0}")]
    Data(String),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
