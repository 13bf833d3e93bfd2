//! Records of a benchmark run to tables: CSV, Markdown, terminal. Knows records, not tensors.

pub mod correlation;
pub mod figure;
pub mod figures;
mod grid;
pub mod page;
pub mod paired;
pub mod paper;
pub mod record;
pub mod regression;
mod seeds;
mod table;
mod tables;
pub mod tensorboard;

pub use paired::{Comparison, Predicted};
pub use record::{Cost, MetricRow, Record};
pub use tables::{Rendered, TableAbout, TableContext, baseline, notes, render, summary, tables};

/// What can go wrong with a run folder's files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A CSV file is not what `bench run` writes.
    #[error("{what}: {source}")]
    Csv {
        /// Which file.
        what: String,
        /// What the reader said, with the line.
        source: csv::Error,
    },
    /// A figure that cannot be drawn.
    #[error("figure {name}: {message}")]
    Figure {
        /// Its name.
        name: String,
        /// What the renderer said.
        message: String,
    },
    /// There is no such table.
    #[error("no table {0}; see `bench list tables`")]
    NoTable(u32),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
