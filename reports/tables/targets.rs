//! Table 1: accuracy of every target, compared with the baseline.

use super::about::{TableAbout, TableContext};
use super::fields::{self, Field};
use super::rows::{Row, base_of};
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::paired::{SIGNIFICANT, has_seeds, p_of};
use crate::table::{Cell, Table};

/// Table 1.
pub const TARGETS: TableAbout = TableAbout {
    number: 1,
    title: "Linear probing and fine-tuning accuracy of every target",
    deltas: true,
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
            Cell::exact(own_p(evaluation, rows, cx, row))
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
                marked: has_seeds(&cx.comparisons, evaluation.key, &row.name)
                    && own_p(evaluation, rows, cx, row).is_some_and(|p| p < SIGNIFICANT),
            },
            None => Cell::Empty,
        }
    })
}

/// Returns the p-value of a row. Only the first run and setting have comparisons.
fn own_p(
    evaluation: &Evaluation,
    rows: &[Row<'_>],
    cx: &TableContext,
    row: &Row<'_>,
) -> Option<f64> {
    let own = row.first().suite == rows[0].first().suite && row.setting() == rows[0].setting();
    p_of(&cx.comparisons, evaluation.key, &row.name).filter(|_| own)
}
