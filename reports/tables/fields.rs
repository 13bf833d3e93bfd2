//! The columns that tables share: a header, and the cell of a row.

use super::rows::Row;
use super::told::Settings;
use crate::chance::Metrics;
use crate::column::{Better, Column};
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::paper::{PaperRow, closest_reading, printed};
use crate::table::{Cell, Header, Line, Table};

/// A column of a table.
pub struct Field<'a> {
    header: Header,
    cell: Box<dyn Fn(&Row<'_>) -> Cell + 'a>,
}

/// A column without a direction.
pub fn plain<'a>(title: &str, name: &str, cell: impl Fn(&Row<'_>) -> Cell + 'a) -> Field<'a> {
    Field {
        header: Header::new(title, name),
        cell: Box::new(cell),
    }
}

/// A column that only the CSV has.
pub fn hidden<'a>(name: &str, cell: impl Fn(&Row<'_>) -> Cell + 'a) -> Field<'a> {
    let mut field = plain("", name, cell);
    field.header.hidden = true;
    field
}

/// The name of the row.
pub fn name<'a>(title: &str, name: &str) -> Field<'a> {
    plain(title, name, |row| Cell::text(&row.name))
}

/// The backbone.
pub fn backbone<'a>() -> Field<'a> {
    plain("Backbone", "backbone", |row| {
        Cell::text(format!("ViT-{}", row.first().backbone))
    })
}

/// A training-free metric.
pub fn metric<'a>(title: &str, column: Column) -> Field<'a> {
    let mut field = plain(title, column.name, move |row| {
        row.metric(|r| r.number(&column))
    });
    field.header.better = column.better;
    field
}

/// The distance of TCAS from its null, with its standard error if `metrics` has it.
pub fn below_null<'a>(metrics: &'a Metrics) -> Field<'a> {
    let mut field = plain("TCAS below null", "tcas_below_null", |row| {
        row.below_null(metrics)
    });
    field.header.better = Better::Higher;
    field.header.error = "se";
    field
}

/// An accuracy.
pub fn accuracy<'a>(evaluation: &'static Evaluation) -> Field<'a> {
    let name = format!("{}_acc", evaluation.key);
    let mut field = plain(evaluation.header, &name, |row| row.accuracy(evaluation));
    field.header.better = evaluation.top1.better;
    field
}

/// The accuracies in the paper's tables.
pub fn printed_accuracies<'a>() -> impl Iterator<Item = Field<'a>> {
    let in_paper = EVALUATIONS.iter().filter(|e| e.printed.is_some());
    in_paper.map(accuracy)
}

fn paper_number<'a>(
    table: u32,
    (title, name): (&str, &str),
    of: impl Fn(&PaperRow) -> Option<f64> + 'a,
) -> Field<'a> {
    plain(title, name, move |row| {
        Cell::exact(printed(table, row.first()).and_then(|paper| of(&paper)))
    })
}

/// TCAS from the paper's table, after the closest reading of it. A difference of the two would say nothing, so there is none.
pub fn paper_tcas<'a>(table: u32) -> [Field<'a>; 2] {
    let closest = plain("closest reading", "tcas_closest_reading", |row| {
        row.metric(closest_reading)
    });
    let paper = paper_number(table, ("paper TCAS", "paper_tcas"), |paper| paper.tcas);
    [closest, paper]
}

/// Accuracies from the paper's table.
pub fn paper<'a>(table: u32) -> impl Iterator<Item = Field<'a>> {
    EVALUATIONS.iter().filter_map(move |evaluation| {
        let title = format!("paper {}", evaluation.short);
        let name = format!("paper_{}_acc", evaluation.key);
        Some(paper_number(table, (&title, &name), evaluation.printed?))
    })
}

/// The status, if it is not `ok`.
pub fn status<'a>() -> Field<'a> {
    plain("status", "status", |row| row.problem())
}

/// What of dataset, backbone, sizes, suite and recipe tells the rows apart.
pub fn setting<'a>(rows: &[Row<'_>]) -> Field<'a> {
    told(Settings::of(rows))
}

/// The same without dataset and backbone, for a table that has their columns.
pub fn further_setting<'a>(rows: &[Row<'_>]) -> Field<'a> {
    told(Settings::of(rows).without_models())
}

fn told<'a>(settings: Settings) -> Field<'a> {
    plain("setting", "setting", move |row| {
        Cell::text(settings.text(row))
    })
}

/// A table of `rows`.
pub fn table<'r>(rows: &'r [Row<'r>], fields: impl IntoIterator<Item = Field<'r>>) -> Table {
    let settings = Settings::of(rows);
    let fields: Vec<Field<'_>> = fields.into_iter().collect();
    let headers = fields.iter().map(|f| f.header.clone());
    let mut table = Table::new(headers.collect());
    for row in rows {
        let cells = fields.iter().map(|f| (f.cell)(row));
        table.lines.push(Line {
            setting: settings.key(row),
            ranked: !row.first().saw_labels,
            cells: cells.collect(),
        });
    }
    table
}
