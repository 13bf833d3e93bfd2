//! The paper's tables from the records of one or more runs, and the summary for the terminal.

mod about;
mod alignment;
mod epochs;
mod fields;
mod footnotes;
mod kmeans;
mod remarks;
mod rows;
mod settings;
mod sizes;
mod targets;
mod told;

use std::fmt::Write;

pub use about::{OtherRun, TableAbout, TableContext};

use crate::chance::Metrics;
use crate::columns::Record;
use crate::error::{Error, Result};
use crate::evaluations::EVALUATIONS;
use crate::grid::Grid;
use crate::table::Cell;
use crate::text::markdown_sentence;
use footnotes::footnotes;
pub use rows::left_out;
use rows::{base_of, grouped};
use told::Settings;

/// Returns all tables.
pub fn tables() -> &'static [TableAbout] {
    &[
        targets::TARGETS,
        alignment::ALIGNMENT,
        settings::SETTINGS,
        kmeans::CLUSTERS,
        kmeans::PASSES,
        epochs::EPOCHS,
        sizes::SIZES,
    ]
}

/// A written table.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// `table1.csv`.
    pub csv: String,
    /// `table1.md`.
    pub markdown: String,
    /// `table1.tex`.
    pub latex: String,
}

/// Writes table `number` of `records`.
///
/// # Errors
/// [`Error::NoTable`].
pub fn render(number: u32, records: &[Record], cx: &TableContext) -> Result<Rendered> {
    let about = tables()
        .iter()
        .find(|t| t.number == number)
        .ok_or(Error::NoTable(number))?;
    let rows = (about.select)(grouped(records));
    let mut table = (about.build)(&rows, cx);
    let remarks = remarks::notes(about.deltas, &rows, cx);
    table.add_hidden("note", remarks.into_iter().map(Cell::text));
    let mut notes = footnotes(about.deltas, &rows, cx);
    notes.extend(table.note());
    let title = about.title;
    let mut markdown = format!("# Table {number}. {title}\n\n{}\n", table.markdown());
    for note in &notes {
        let _ = writeln!(markdown, "- {}", markdown_sentence(note));
    }
    Ok(Rendered {
        csv: table.csv()?,
        latex: table.latex(number, title, &notes),
        markdown,
    })
}

/// Returns the footnotes that all tables share.
pub fn notes(records: &[Record], cx: &TableContext) -> Vec<String> {
    footnotes(false, &grouped(records), cx)
}

/// Returns a summary for a terminal: accuracy and TCAS of every row. `metrics` has the errors. Columns that do not fit are left out.
pub fn summary(records: &[Record], metrics: &Metrics) -> String {
    let accuracies = EVALUATIONS.iter().map(|e| e.short);
    let others = ["TCAS", "below null", "PNMI", "codes", "status"];
    let header: Vec<&str> = [""].into_iter().chain(accuracies).chain(others).collect();
    let mut grid = Grid::new(&header);
    let rows = grouped(records);
    let settings = Settings::of(&rows);
    for row in &rows {
        let accuracies = EVALUATIONS.iter().map(|e| row.accuracy(e));
        let others = [
            row.metric(|r| r.tcas),
            row.below_null(metrics),
            row.metric(|r| r.pnmi),
            row.used(),
            row.problem(),
        ];
        let cells = accuracies.chain(others).map(|cell| cell.pretty());
        grid.rows
            .push([settings.label(row)].into_iter().chain(cells).collect());
    }
    let grid = grid.without_empty_columns();
    grid.narrowed(&["codes", "PNMI", "TCAS", "bag"]).text()
}

/// Returns the row that the others are compared with: `named` if the suite names one, otherwise by the rule of `base_of`.
pub fn baseline(records: &[Record], named: Option<&str>) -> Option<String> {
    let rows = grouped(records);
    Some(base_of(&rows, rows.first()?, named)?.name.clone())
}

#[cfg(test)]
mod tests;
