//! Table 7: TCAS and accuracy by the size of the codebook.

use super::about::{TableAbout, TableContext};
use super::fields;
use super::rows::Row;
use crate::columns::Record;
use crate::evaluations::EVALUATIONS;
use crate::table::{Cell, Table};

/// Table 7.
pub const SIZES: TableAbout = TableAbout {
    number: 7,
    title: "TCAS and accuracy of every codebook, by its size",
    deltas: false,
    select,
    build,
};

/// Returns whether groups have too many joint codes for a size.
fn too_many(row: &Row<'_>) -> bool {
    let first = row.first();
    row.codes().is_none() && !first.code_groups.is_empty()
}

fn select(mut rows: Vec<Row<'_>>) -> Vec<Row<'_>> {
    rows.retain(|row| row.codes().is_some() || row.first().kind == "none" || too_many(row));
    rows.sort_by_key(|row| (too_many(row), row.codes()));
    rows
}

fn build(rows: &[Row<'_>], cx: &TableContext) -> Table {
    let mut all = vec![
        fields::name("Tokenizer", "tokenizer"),
        fields::plain("K", "k", |row| Cell::count(row.codes())),
        fields::plain("k-means epochs", "kmeans_epochs", |row| {
            Cell::count(row.passes())
        }),
        fields::metric("TCAS", const { Record::column("tcas") }),
        fields::below_null(&cx.metrics),
    ];
    all.extend(EVALUATIONS.iter().map(fields::accuracy));
    all.extend(fields::paper_tcas(SIZES.number));
    all.extend(fields::paper(SIZES.number));
    all.extend([fields::status(), fields::setting(rows)]);
    fields::table(rows, all)
}
