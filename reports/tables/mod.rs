//! The paper's tables over the records of one run or several, and the summary.

mod accuracy;
mod codebooks;
mod footnotes;
mod rows;

use std::fmt::Write;

use crate::columns::Comparison;
use crate::columns::Record;
use crate::error::{Error, Result};
use crate::grid::Grid;
use crate::table::{Cell, Table};
use footnotes::footnotes;
use rows::{Row, grouped};

/// A table that can be written.
#[derive(Clone, Copy, Debug)]
pub struct TableAbout {
    /// The paper's number.
    pub number: u32,
    /// What it shows.
    pub title: &'static str,
}

/// All tables.
pub fn tables() -> &'static [TableAbout] {
    const fn about(number: u32, title: &'static str) -> TableAbout {
        TableAbout { number, title }
    }
    const ALL: &[TableAbout] = &[
        about(1, "Linear probing and fine-tuning accuracy of every target"),
        about(2, "TCAS of every tokenizer"),
        about(3, "Accuracy of every target by dataset and backbone"),
        about(
            4,
            "Accuracy of K-means tokenizers by the number of clusters K",
        ),
        about(5, "Accuracy of K-means tokenizers by the passes of K-means"),
        about(6, "Accuracy by the epochs of pretraining"),
        about(7, "TCAS and accuracy of every codebook, by its size"),
    ];
    ALL
}

/// What tables say that records don't.
#[derive(Clone, Debug, Default)]
pub struct TableContext {
    /// (tokenizer, what its recipe overrides), for the footnotes.
    pub overrides: Vec<(String, String)>,
    /// Rows against the baseline, for the marks in table 1.
    pub comparisons: Vec<Comparison>,
    /// Footnotes of the suite: which class list, which view.
    pub notes: Vec<String>,
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
    let rows = grouped(records);
    let table = build(number, &rows, cx);
    let notes = footnotes(number, &rows, cx);
    let title = about.title;
    let mut markdown = format!("# Table {number}. {title}\n\n{}\n", table.markdown());
    for note in &notes {
        let _ = writeln!(markdown, "- {note}");
    }
    Ok(Rendered {
        csv: table.csv()?,
        latex: table.latex(number, title, &notes),
        markdown,
    })
}

fn build(number: u32, rows: &[Row<'_>], cx: &TableContext) -> Table {
    match number {
        1 => accuracy::table1(rows, cx),
        2 => codebooks::table2(rows),
        3 => accuracy::table3(rows),
        4 => codebooks::table4(rows),
        5 => codebooks::table5(rows),
        6 => accuracy::table6(rows),
        _ => codebooks::table7(rows),
    }
}

/// What a reader must know before comparing two numbers of `records`: the footnotes of table 1 without its marks.
pub fn notes(records: &[Record], cx: &TableContext) -> Vec<String> {
    footnotes(0, &grouped(records), cx)
}

/// The run on a terminal: accuracy and TCAS of every row.
pub fn summary(records: &[Record]) -> String {
    let rows = grouped(records);
    let mut grid = Grid::new(&[
        "",
        "LP",
        "FT",
        "k-NN",
        "TCAS",
        "null",
        "PNMI",
        "codes used",
        "status",
    ]);
    for row in &rows {
        grid.rows.push(vec![
            row.name.clone(),
            row.accuracy(|r| r.lp_top1).pretty(),
            row.accuracy(|r| r.ft_top1).pretty(),
            row.accuracy(|r| r.knn_top1).pretty(),
            row.metric(|r| r.tcas).pretty(),
            row.metric(|r| r.tcas_null).pretty(),
            row.metric(|r| r.pnmi).pretty(),
            row.used().pretty(),
            row.problem().pretty(),
        ]);
    }
    grid.without_empty_columns().text()
}

/// The row that the others are compared with: the identity row, without one the row without pretraining.
pub fn baseline(records: &[Record]) -> Option<String> {
    base(&grouped(records)).map(|row| row.name.clone())
}

fn base<'a>(rows: &'a [Row<'a>]) -> Option<&'a Row<'a>> {
    base_of(rows, rows.first()?)
}

/// The baseline among the rows of the same suite and setting.
fn base_of<'a>(rows: &'a [Row<'a>], row: &Row<'_>) -> Option<&'a Row<'a>> {
    let same = |r: &&Row<'_>| r.first().suite == row.first().suite && r.setting() == row.setting();
    let is_identity =
        |r: &&Row<'_>| r.first().kind == "continuous" && r.name.to_lowercase().contains("identity");
    let random = || {
        rows.iter()
            .filter(same)
            .find(|r| r.name == "No pretraining")
    };
    rows.iter().filter(same).find(is_identity).or_else(random)
}

/// Dataset and backbone, where the table has several.
fn setting_column(rows: &[Row<'_>], row: &Row<'_>) -> Cell {
    let setting = row.setting();
    match rows.iter().all(|r| r.setting() == setting) {
        true => Cell::Empty,
        false => Cell::Text(setting),
    }
}

#[cfg(test)]
mod tests;
