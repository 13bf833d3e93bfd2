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
            Some((value, _)) => Cell::Delta {
                value,
                // A test on the images of one seed compares two models, not their tokenizers.
                marked: own(evaluation, rows, cx, row)
                    .is_some_and(|c| c.seeds > 1 && c.is_significant()),
            },
            None => Cell::Empty,
        }
    })
}

/// Returns the comparison of a row, if it is of all seeds of the difference: the folder may lack the predictions of some.
fn own<'a>(
    evaluation: &Evaluation,
    rows: &[Row<'_>],
    cx: &'a TableContext,
    row: &Row<'_>,
) -> Option<&'a Comparison> {
    let (found, seeds) = compared(evaluation, rows, cx, row)?;
    (found.seeds == seeds).then_some(found)
}

/// Returns the comparison of a row, and the number of seeds of its difference. Only the first run has comparisons.
fn compared<'a>(
    evaluation: &Evaluation,
    rows: &[Row<'_>],
    cx: &'a TableContext,
    row: &Row<'_>,
) -> Option<(&'a Comparison, usize)> {
    // A further run of the suite has rows of the same names.
    let first = rows.iter().find(|r| r.name == row.name)?;
    let is_own = first.is(row) && row.setting() == rows[0].setting();
    let found = over(&cx.comparisons, evaluation.key, &row.name).filter(|_| is_own)?;
    let base = base_of(rows, row, cx.baseline.as_deref())?;
    let (_, seeds) = row.ahead_of(base, |r| evaluation.accuracy(r))?;
    Some((found, seeds))
}

/// Returns the rows of which the images of fewer seeds are compared than their differences are means of.
pub(super) fn compared_in_part<'a>(rows: &'a [Row<'a>], cx: &TableContext) -> Vec<&'a str> {
    let in_part = |row: &&Row<'_>| {
        let mut all = Evaluation::compared();
        all.any(|evaluation| {
            let found = compared(evaluation, rows, cx, row);
            found.is_some_and(|(found, seeds)| found.seeds < seeds)
        })
    };
    let rows = rows.iter().filter(in_part);
    rows.map(|row| row.name.as_str()).collect()
}
