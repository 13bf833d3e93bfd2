//! How a verb of the command line ends early.

use std::sync::atomic::AtomicBool;

/// Set by SIGINT and SIGTERM; asked by everything that takes long.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// How a verb ends when it does not end well.
#[derive(Debug)]
pub enum Failure {
    /// The suite, the arguments or the data are wrong: status 2.
    Wrong(String),
    /// A cell failed: status 1. Already told.
    Failed,
    /// SIGINT or SIGTERM: status 130.
    Interrupted,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Wrong(format!("{error:#}"))
    }
}
