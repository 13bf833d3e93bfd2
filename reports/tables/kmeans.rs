//! Tables 4 and 5: K-means tokenizers by the number of clusters, and by the passes of K-means.

use super::about::{TableAbout, TableContext};
use super::fields;
use super::rows::Row;
use crate::columns::Record;
use crate::table::{Cell, Table};

/// Table 4.
pub const CLUSTERS: TableAbout = TableAbout {
    number: 4,
    title: "Accuracy of K-means tokenizers by the number of clusters K",
    deltas: false,
    select: |rows| sorted(rows, |row| row.codes()),
    build: |rows, cx| by((rows, cx), 4, ("K", "k"), |row| row.codes()),
};

/// Table 5.
pub const PASSES: TableAbout = TableAbout {
    number: 5,
    title: "Accuracy of K-means tokenizers by the passes of K-means",
    deltas: false,
    select: |rows| sorted(rows, |row| row.passes()),
    build: |rows, cx| {
        by((rows, cx), 5, ("K-means epochs", "kmeans_epochs"), |row| {
            row.passes()
        })
    },
};

/// Returns the K-means rows, sorted by `key`.
fn sorted(mut rows: Vec<Row<'_>>, key: fn(&Row<'_>) -> Option<usize>) -> Vec<Row<'_>> {
    rows.retain(|row| row.first().kind == "kmeans");
    rows.sort_by_key(|row| (key(row), row.family().to_owned()));
    rows
}

/// Builds a table by `key`.
fn by(
    (rows, cx): (&[Row<'_>], &TableContext),
    number: u32,
    (title, name): (&str, &str),
    key: fn(&Row<'_>) -> Option<usize>,
) -> Table {
    let mut all = vec![
        fields::plain(title, name, move |row| Cell::count(key(row))),
        fields::name("Method", "method"),
        fields::metric("TCAS", const { Record::column("tcas") }),
        fields::below_null(&cx.metrics),
    ];
    all.extend(fields::printed_accuracies());
    all.extend(fields::paper(number));
    all.extend([fields::status(), fields::setting(rows)]);
    fields::table(rows, all)
}
