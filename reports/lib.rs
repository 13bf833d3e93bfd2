//! Tables, figures, comparisons and the page from the records of a benchmark run. This crate knows records, not tensors.

#![deny(missing_docs)]

mod apart;
mod cell;
mod chance;
mod column;
pub mod columns;
pub mod compare;
mod correlated;
mod correlation;
mod diverged;
mod doubt;
mod error;
pub mod evaluations;
pub mod figure;
pub mod figures;
mod grid;
mod number;
pub mod page;
pub mod paired;
mod paper;
pub mod recipes;
mod seeds;
mod signs;
mod table;
mod tables;
pub mod tensorboard;
mod text;

pub use apart::RowId;
pub use chance::{Metrics, PERMUTATIONS};
pub use column::{Better, Column, Group, Measured, from_csv, to_csv};
pub use columns::{Comparison, CostRow, HistoryRow, MetricRow, Record};
pub use diverged::{no_better_than_a_guess, not_lowered, risen_rows, worse_than_a_guess};
pub use error::{Error, Result};
pub use grid::Grid;
pub use paired::Predicted;
pub use seeds::error_over_fits;
pub use tables::{
    OtherRun, Rendered, TableAbout, TableContext, baseline, left_out, notes, render, summary,
    tables,
};
pub use text::{printable, wrapped};
