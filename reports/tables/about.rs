//! The description of a table, and data of tables besides the records.

use std::collections::BTreeSet;

use super::rows::Row;
use crate::apart::RowId;
use crate::chance::Metrics;
use crate::columns::{Comparison, Record};
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

/// A further run in a table.
#[derive(Clone, Debug, Default)]
pub struct OtherRun {
    /// Its rows.
    pub rows: BTreeSet<RowId>,
    /// Their comparisons with the baseline.
    pub comparisons: Vec<Comparison>,
    /// (tokenizer, override of its recipe).
    pub overrides: Vec<(String, String)>,
    /// Rows whose pretraining has not lowered its loss.
    pub risen: Vec<String>,
}

/// Data of tables besides the records.
#[derive(Clone, Debug, Default)]
pub struct TableContext {
    /// The row that the others are compared with, if the suite names it.
    pub baseline: Option<String>,
    /// (tokenizer, override of its recipe), for the footnotes.
    pub overrides: Vec<(String, String)>,
    /// Comparisons with the baseline, for the marks in table 1.
    pub comparisons: Vec<Comparison>,
    /// Further runs whose rows the table has.
    pub others: Vec<OtherRun>,
    /// `metrics.csv` of the runs, for statements about chance levels.
    pub metrics: Metrics,
    /// Rows whose pretraining has not lowered its loss.
    pub risen: Vec<String>,
    /// Rows of the run that `comparisons`, `risen` and `overrides` are of, if there are rows of other runs.
    pub own: BTreeSet<RowId>,
    /// Further footnotes.
    pub notes: Vec<String>,
}

impl TableContext {
    fn is_own(&self, record: &Record) -> bool {
        self.own.is_empty() || self.own.contains(&record.row_id())
    }

    /// Returns the first added run that has the record.
    fn added_with(&self, record: &Record) -> Option<&OtherRun> {
        let mut runs = self.others.iter();
        runs.find(|run| run.rows.contains(&record.row_id()))
    }

    /// Returns the comparisons of the run that has both records: the first with `record`, of which the table's numbers are.
    pub(super) fn comparisons_of(&self, record: &Record, base: &Record) -> &[Comparison] {
        if self.is_own(record) {
            return match self.is_own(base) {
                true => &self.comparisons,
                false => &[],
            };
        }
        let run = self.added_with(record);
        let run = run.filter(|run| run.rows.contains(&base.row_id()));
        run.map_or(&[], |run| &run.comparisons)
    }

    /// Returns the overrides and the risen rows of the run that has the record.
    fn said_of(&self, record: &Record) -> (&[(String, String)], &[String]) {
        if self.is_own(record) {
            return (&self.overrides, &self.risen);
        }
        let run = self.added_with(record);
        run.map_or((&[], &[]), |run| (&run.overrides, &run.risen))
    }

    /// Returns what a row overrides in the recipe of its run.
    pub(super) fn overrides_of<'a>(&'a self, row: &'a Row<'_>) -> impl Iterator<Item = &'a str> {
        let (overrides, _) = self.said_of(row.first());
        let of_row = overrides.iter().filter(|(name, _)| *name == row.name);
        of_row.map(|(_, what)| what.as_str())
    }

    /// Returns whether the pretraining of a row has not lowered its loss.
    pub(super) fn has_risen(&self, row: &Row<'_>) -> bool {
        self.said_of(row.first()).1.contains(&row.name)
    }
}
