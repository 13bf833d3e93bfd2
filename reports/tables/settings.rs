//! Table 3: accuracy by dataset and backbone.

use super::about::{TableAbout, TableContext};
use super::fields;
use super::rows::{Row, by_setting};
use super::told::Settings;
use crate::table::{Cell, Table};

/// Table 3.
pub const SETTINGS: TableAbout = TableAbout {
    number: 3,
    title: "Accuracy of every target by dataset and backbone",
    deltas: false,
    select: by_setting,
    build,
};

fn build(rows: &[Row<'_>], _: &TableContext) -> Table {
    let settings = Settings::of(rows);
    let mut all = vec![
        fields::plain("Dataset", "dataset", move |row| {
            Cell::Text(settings.dataset(row.first()))
        }),
        fields::backbone(),
        fields::name("Method", "method"),
    ];
    all.extend(fields::printed_accuracies());
    all.extend(fields::paper(SETTINGS.number));
    all.extend([fields::status(), fields::further_setting(rows)]);
    fields::table(rows, all)
}
