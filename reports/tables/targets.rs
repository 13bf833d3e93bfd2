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
        match difference(evaluation, rows, cx, row) {
            Some((base, value, seeds)) => Cell::Delta {
                value,
                marked: is_whole(evaluation, row, base, seeds)
                    && own(evaluation, rows, cx, row).is_some_and(Comparison::is_significant),
            },
            None => Cell::Empty,
        }
    })
}

/// Returns whether a test on the images leaves out nothing that varies. One seed compares two models, not their tokenizers. Without an encoder all
/// seeds have one number, and what varies is the codebook.
fn is_whole(evaluation: &Evaluation, row: &Row<'_>, base: &Row<'_>, seeds: usize) -> bool {
    match evaluation.of_encoder {
        true => seeds > 1,
        false => row.first().fits() == 0 && base.first().fits() == 0,
    }
}

/// Returns the row with which another is compared, their mean difference and the number of its seeds.
fn difference<'a>(
    evaluation: &Evaluation,
    rows: &'a [Row<'a>],
    cx: &TableContext,
    row: &Row<'_>,
) -> Option<(&'a Row<'a>, f64, usize)> {
    let base = base_of(rows, row, cx.baseline.as_deref()).filter(|b| b.name != row.name)?;
    let (value, seeds) = row.ahead_of(base, |r| evaluation.accuracy(r))?;
    Some((base, value, seeds))
}

/// Returns the comparison of a row by its run, if it is of the same baseline and of all seeds of the difference: the folder may lack the
/// predictions of some, and other runs may have further seeds.
fn own<'a>(
    evaluation: &Evaluation,
    rows: &[Row<'_>],
    cx: &'a TableContext,
    row: &Row<'_>,
) -> Option<&'a Comparison> {
    let (base, _, seeds) = difference(evaluation, rows, cx, row)?;
    let all = cx.comparisons_of(row.first(), base.first());
    let found = over(all, evaluation.key, &row.name)?;
    (found.seeds == seeds && found.baseline == base.name).then_some(found)
}

/// Returns the rows with a difference that is not tested.
pub(super) fn not_tested<'a>(rows: &'a [Row<'a>], cx: &TableContext) -> Vec<&'a Row<'a>> {
    let lacks_a_test = |row: &&Row<'_>| {
        let mut all = Evaluation::compared();
        all.any(|evaluation| {
            difference(evaluation, rows, cx, row).is_some()
                && own(evaluation, rows, cx, row).is_none()
        })
    };
    rows.iter().filter(lacks_a_test).collect()
}
