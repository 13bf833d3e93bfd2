//! The description of a table, and what tables show besides the records.

use super::rows::Row;
use crate::columns::Comparison;
use crate::table::Table;

/// A table that can be written.
#[derive(Clone, Copy, Debug)]
pub struct TableAbout {
    /// The paper's number.
    pub number: u32,
    /// What it shows.
    pub title: &'static str,
    /// Whether it shows differences to the baseline; the footnotes then name the baseline.
    pub(crate) deltas: bool,
    /// Builds it.
    pub(crate) build: fn(&[Row<'_>], &TableContext) -> Table,
}

/// What tables show besides the records.
#[derive(Clone, Debug, Default)]
pub struct TableContext {
    /// The row that the others are compared with, if the suite names it.
    pub baseline: Option<String>,
    /// (tokenizer, what its recipe overrides), for the footnotes.
    pub overrides: Vec<(String, String)>,
    /// Rows against the baseline, for the marks in table 1.
    pub comparisons: Vec<Comparison>,
    /// Footnotes of the suite: which class list, which view.
    pub notes: Vec<String>,
}
