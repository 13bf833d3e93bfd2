//! Why a verb of the command line ends with a status other than 0.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGINT and SIGTERM; long computations poll it.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// Returns whether an error's message says that a signal ended the work: the cause comes last.
pub fn is_interruption(message: &str) -> bool {
    STOP.load(Ordering::Relaxed) && message.ends_with(&crate::Error::Interrupted.to_string())
}

/// Why a verb ends with a status other than 0.
#[derive(Debug)]
pub enum Failure {
    /// The suite, the arguments or the data are wrong: status 2.
    Wrong(String),
    /// A cell failed: status 1. The message is already printed.
    Failed,
    /// Results that other processes compute are missing: status 3. The message is already printed.
    Waits,
    /// SIGINT or SIGTERM: status 130.
    Interrupted {
        /// Whether the interrupted stage goes on where it was, instead of at its start.
        kept: bool,
    },
}

impl Failure {
    /// Returns the exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Wrong(_) => 2,
            Self::Waits => 3,
            Self::Interrupted { .. } => 130,
        }
    }
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Wrong(format!("{error:#}"))
    }
}
