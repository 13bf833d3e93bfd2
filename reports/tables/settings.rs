//! Table 3: accuracy by dataset and backbone.

use super::about::{TableAbout, TableContext};
use super::fields;
use super::rows::{Datasets, Row, by_setting};
use crate::table::{Cell, Table};

/// Table 3.
pub const SETTINGS: TableAbout = TableAbout {
    number: 3,
    title: "Accuracy of every target by dataset and backbone",
    deltas: false,
    build,
};

fn build(rows: &[Row<'_>], _: &TableContext) -> Table {
    let datasets = Datasets::of(rows);
    let mut all = vec![
        fields::plain("Dataset", "dataset", move |row| {
            Cell::Text(datasets.name(row.first()))
        }),
        fields::backbone(),
        fields::name("Method", "method"),
    ];
    all.extend(fields::printed_accuracies());
    all.extend(fields::paper(SETTINGS.number));
    all.push(fields::status());
    fields::table(by_setting(rows), all)
}
