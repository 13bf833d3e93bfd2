//! The errors of this crate.

/// An error about the files of a run folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A CSV file that `bench run` did not write.
    #[error("{what}: {error}")]
    Csv {
        /// The file.
        what: String,
        /// The reader's error, with the line.
        error: csv::Error,
    },
    /// A CSV file with a cell that no run writes.
    #[error("{what}: found {found}, expected {expected}")]
    Cell {
        /// The file.
        what: String,
        /// Column, number and row.
        found: String,
        /// The range of the column.
        expected: String,
    },
    /// `results.csv` has no such column of numbers.
    #[error("results.csv has no numeric column {0:?}; see `bench list columns`")]
    NoColumn(String),
    /// A figure that cannot be drawn.
    #[error("figure {name}: {message}")]
    Figure {
        /// Its name.
        name: String,
        /// The renderer's message.
        message: String,
    },
    /// There is no such table.
    #[error("no table {0}; see `bench list tables`")]
    NoTable(u32),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
