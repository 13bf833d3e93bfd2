//! Table 2: TCAS of every tokenizer.

use super::about::{TableAbout, TableContext};
use super::fields;
use super::rows::Row;
use crate::columns::Record;
use crate::table::{Cell, Table};

/// Table 2.
pub const ALIGNMENT: TableAbout = TableAbout {
    number: 2,
    title: "TCAS of every tokenizer",
    deltas: false,
    select: |mut rows| {
        rows.retain(|row| row.first().kind != "none");
        rows
    },
    build,
};

fn build(rows: &[Row<'_>], cx: &TableContext) -> Table {
    let mut all = vec![
        fields::name("Tokenizer", "tokenizer"),
        fields::metric("TCAS", const { Record::column("tcas") }),
        fields::metric("null", const { Record::column("tcas_null") }),
        fields::below_null(&cx.metrics),
        fields::metric("PNMI", const { Record::column("pnmi") }),
        fields::metric("null PNMI", const { Record::column("pnmi_null") }),
        fields::plain("codes", "codebook_size", |row| Cell::count(row.codes())),
        fields::plain("used", "codebook_used", |row| row.used()),
    ];
    all.extend(fields::paper_tcas(ALIGNMENT.number));
    all.extend([fields::status(), fields::setting(rows)]);
    fields::table(rows, all)
}
