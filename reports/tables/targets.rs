//! Table 1: accuracy of every target, compared with the baseline.

use super::about::{TableAbout, TableContext};
use super::fields::{self, Field};
use super::rows::{Row, base_of};
use crate::columns::Comparison;
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::paired::over;
use crate::table::{Cell, Table};

/// Table 1.
pub const TARGETS: TableAbout = TableAbout {
    number: 1,
    title: "Linear probing and fine-tuning accuracy of every target",
    deltas: true,
    select: |rows| rows,
    build,
};

fn build(rows: &[Row<'_>], cx: &TableContext) -> Table {
    let mut all = vec![fields::name("Tokenizer", "tokenizer")];
    for evaluation in EVALUATIONS {
        all.push(fields::accuracy(evaluation));
        if evaluation.predictions.is_some() {
            all.push(delta(evaluation, rows, cx));
        }
    }
    all.extend(fields::paper(TARGETS.number));
    all.push(fields::status());
    let p = |evaluation: &'static Evaluation| {
        fields::hidden(&format!("{}_p", evaluation.key), move |row| {
            Cell::exact(own(evaluation, rows, cx, row).map(|c| c.p_holm))
        })
    };
    all.extend(Evaluation::compared().map(p));
    all.push(fields::setting(rows));
    fields::table(rows, all)
}

fn delta<'a>(
    evaluation: &'static Evaluation,
    rows: &'a [Row<'a>],
    cx: &'a TableContext,
) -> Field<'a> {
    let title = format!("Δ {}", evaluation.short);
    let name = format!("{}_delta", evaluation.key);
    fields::plain(&title, &name, move |row| {
        let base = base_of(rows, row, cx.baseline.as_deref()).filter(|b| b.name != row.name);
        match base.and_then(|b| row.ahead_of(b, |r| evaluation.accuracy(r))) {
            Some(value) => Cell::Delta {
                value,
                // A test on the images of one seed compares two models, not their tokenizers.
                marked: own(evaluation, rows, cx, row)
                    .is_some_and(|c| c.seeds > 1 && c.is_significant()),
            },
            None => Cell::Empty,
        }
    })
}

/// Returns the comparison of a row. Only the first run has comparisons.
fn own<'a>(
    evaluation: &Evaluation,
    rows: &[Row<'_>],
    cx: &'a TableContext,
    row: &Row<'_>,
) -> Option<&'a Comparison> {
    // A further run of the suite has rows of the same names.
    let first = rows.iter().find(|r| r.name == row.name)?;
    let is_own = first.is(row) && row.setting() == rows[0].setting();
    over(&cx.comparisons, evaluation.key, &row.name).filter(|_| is_own)
}
