//! The description of a table, and data of tables besides the records.

use std::collections::BTreeSet;

use super::rows::Row;
use crate::columns::{Comparison, MetricRow, Record};
use crate::table::Table;

/// A table that can be written.
#[derive(Clone, Copy, Debug)]
pub struct TableAbout {
    /// The paper's number.
    pub number: u32,
    /// Title.
    pub title: &'static str,
    /// Whether it shows differences to the baseline; the footnotes then name the baseline.
    pub(crate) deltas: bool,
    /// Selects and sorts its rows.
    pub(crate) select: Select,
    /// Builds it from these rows.
    pub(crate) build: fn(&[Row<'_>], &TableContext) -> Table,
}

/// Selects and sorts rows.
pub(crate) type Select = for<'r> fn(Vec<Row<'r>>) -> Vec<Row<'r>>;

/// Data of tables besides the records.
#[derive(Clone, Debug, Default)]
pub struct TableContext {
    /// The row that the others are compared with, if the suite names it.
    pub baseline: Option<String>,
    /// (tokenizer, override of its recipe), for the footnotes.
    pub overrides: Vec<(String, String)>,
    /// Comparisons with the baseline, for the marks in table 1.
    pub comparisons: Vec<Comparison>,
    /// `metrics.csv` of the runs, for statements about chance levels.
    pub metrics: Vec<MetricRow>,
    /// Rows whose pretraining has not lowered its loss.
    pub risen: Vec<String>,
    /// Rows of the run that `risen` and `overrides` are of, if there are rows of other runs: tokenizer, recipe and images.
    pub own: BTreeSet<[String; 3]>,
    /// Further footnotes.
    pub notes: Vec<String>,
}

impl TableContext {
    /// Returns what tells rows of one name apart.
    pub fn recipe_of(record: &Record) -> [String; 3] {
        let all = [
            &record.tokenizer,
            &record.recipe_hash,
            &record.dataset_fingerprint,
        ];
        all.map(String::clone)
    }

    pub(super) fn is_own(&self, record: &Record) -> bool {
        self.own.is_empty() || self.own.contains(&Self::recipe_of(record))
    }
}
