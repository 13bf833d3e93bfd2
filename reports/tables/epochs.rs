//! Table 6: accuracy by the epochs of pretraining.

use super::about::{TableAbout, TableContext};
use super::fields;
use super::rows::{Row, by_setting};
use crate::table::{Cell, Table};

/// Table 6.
pub const EPOCHS: TableAbout = TableAbout {
    number: 6,
    title: "Accuracy by the epochs of pretraining",
    deltas: false,
    select: |rows| {
        let mut trained = by_setting(rows);
        trained.retain(|row| row.first().pretrain_epochs.is_some());
        trained.sort_by_key(|row| (row.setting(), row.first().pretrain_epochs));
        trained
    },
    build,
};

fn build(rows: &[Row<'_>], _: &TableContext) -> Table {
    let mut all = vec![
        fields::name("Method", "method"),
        fields::backbone(),
        fields::plain("epochs", "epochs", |row| {
            Cell::count(row.first().pretrain_epochs)
        }),
    ];
    all.extend(fields::printed_accuracies());
    all.extend(fields::paper(EPOCHS.number));
    all.extend([fields::status(), fields::setting(rows)]);
    fields::table(rows, all)
}
