//! Remarks on single rows: in Markdown and LaTeX a footnote names the rows of each, in CSV the column `note` has those of each row.

use super::about::TableContext;
use super::rows::Row;
use super::targets;
use super::told::{Settings, by_frequency};
use crate::chance::{CHANCE, ENOUGH, Excess, PNMI, TCAS, few_patches};
use crate::column::Column;
use crate::diverged::NOT_LOWERED;
use crate::evaluations::over_fewer_seeds;

/// What is said of a row after the words of its remark; `None` if the remark is not on the row.
type Detail<'a> = Box<dyn Fn(&Row<'_>) -> Option<String> + 'a>;

/// A remark on some rows.
pub struct Remark<'a> {
    what: String,
    of: Detail<'a>,
    /// Follows the names.
    end: &'static str,
}

fn remark<'a>(what: impl Into<String>, of: impl Fn(&Row<'_>) -> Option<String> + 'a) -> Remark<'a> {
    Remark {
        what: what.into(),
        of: Box::new(of),
        end: "",
    }
}

impl Remark<'_> {
    /// Returns `what: row; row.` with the rows that it is on, if there are any.
    pub fn footnote(&self, rows: &[Row<'_>]) -> Option<String> {
        let settings = Settings::of(rows);
        let name = |row: &Row<'_>| Some(format!("{}{}", settings.label(row), (self.of)(row)?));
        let names = Vec::from_iter(rows.iter().filter_map(name)).join("; ");
        (!names.is_empty()).then(|| format!("{}: {names}.{}", self.what, self.end))
    }
}

/// Rows whose means leave out seeds.
pub fn fewer_seeds<'a>(deltas: bool) -> Remark<'a> {
    let both = match deltas {
        true => ", deltas over the seeds that both rows have",
        false => "",
    };
    remark(format!("Means over fewer seeds{both}"), |row| {
        Some(format!(" ({})", over_fewer_seeds(&row.records)?))
    })
}

/// Rows with a metric that is not shown to be better than its null.
pub fn at_chance(cx: &TableContext) -> impl Iterator<Item = Remark<'_>> {
    let metrics = [("TCAS", "below", *TCAS), ("PNMI", "above", *PNMI)];
    let near = metrics.map(|(title, side, column): (_, _, Column)| {
        let what = format!(
            "{title} is not shown to be {side} its null, so that it may be chance: permuted labels are as far from it with p of at least {CHANCE} (distance ± standard error)"
        );
        remark(what, move |row| {
            let record = row.first();
            let metrics = cx.metrics.of(record);
            // A run without any rows has a note of its own.
            let unknown = !metrics.is_empty() && record.number(&column).is_some();
            match Excess::of(record, metrics, &column) {
                // That is said by a remark of its own.
                Some(_) if column == *TCAS && Excess::without_order(record, metrics).is_some() => None,
                Some(excess) => (!excess.is_shown()).then(|| format!(" ({})", excess.text())),
                None => unknown.then(|| " (not known: the distance or its error is unknown)".to_owned()),
            }
        })
    });
    near.into_iter().chain([beyond(cx)])
}

/// Rows whose TCAS has no order.
fn beyond(cx: &TableContext) -> Remark<'_> {
    let what = "TCAS is above its null by more than chance although PNMI is above its null, too, so a lower TCAS is not better: where two classes or one \
                large class hold the images, codes of a single class each can have a larger TCAS than random ones; compare PNMI (distance ± standard error)";
    remark(what, |row| {
        let record = row.first();
        let excess = Excess::without_order(record, cx.metrics.of(record))?;
        Some(format!(" ({})", excess.text()))
    })
}

/// Rows of a table with `deltas` of which a difference is not tested.
pub fn not_tested<'a>(deltas: bool, rows: &'a [Row<'a>], cx: &'a TableContext) -> Remark<'a> {
    let all = match deltas {
        true => targets::not_tested(rows, cx),
        false => Vec::new(),
    };
    let what =
        "No marks and no p, because no run folder has the predictions of both rows for all seeds";
    remark(what, move |row| {
        all.iter().any(|one| one.is(row)).then(String::new)
    })
}

/// Rows with few patches per code and class.
pub fn few<'a>() -> Remark<'a> {
    let what = format!(
        "Fewer than {ENOUGH} patches per code and class; compare the distance from the null, not TCAS or PNMI (patches)"
    );
    remark(what, |row| {
        // 99.6 is fewer than 100.
        few_patches(row.first()).map(|each| format!(" ({:.0})", each.floor()))
    })
}

/// Rows whose linear probe has not converged in some seed, with the remaining fall of the training loss over the seeds.
pub fn unconverged<'a>() -> Remark<'a> {
    let what = "The linear probe has not converged; one more step over all train images would lower its training loss by at least (over the seeds)";
    let of_row = |row: &Row<'_>| {
        let mut all = row.records.iter().filter(|r| r.lp_converged == "no");
        all.next()?;
        let falls = row.records.iter().filter(|r| !r.lp_converged.is_empty());
        let falls = falls.map(|r| r.lp_loss_fall.unwrap_or(f64::NAN));
        if !falls.clone().all(f64::is_finite) {
            return Some(" (not known, because it has diverged)".into());
        }
        let (low, high) = (falls.clone().reduce(f64::min)?, falls.reduce(f64::max)?);
        let (low, high) = (format!("{low:.1}"), format!("{high:.1}"));
        Some(match low == high {
            true => format!(" ({high} %)"),
            false => format!(" ({low} to {high} %)"),
        })
    };
    Remark {
        end: " Other epochs or rates may rank these rows differently.",
        ..remark(what, of_row)
    }
}

/// Rows that take something from checkpoint files.
pub fn of_checkpoints<'a>() -> Remark<'a> {
    remark("Of checkpoints", |row| {
        let taken = row.first().checkpoints();
        let taken = taken.map(|(what, taken)| format!("{what} of {taken}"));
        let taken = taken.collect::<Vec<_>>().join("; ");
        (!taken.is_empty()).then(|| format!(" ({taken})"))
    })
}

/// Rows that saw labels.
pub fn labelled<'a>() -> Remark<'a> {
    remark("Built with labels", |row| {
        row.first().saw_labels.then(String::new)
    })
}

/// Returns the cell `note` of every row, in their order.
pub fn notes(deltas: bool, rows: &[Row<'_>], cx: &TableContext) -> Vec<String> {
    let recipes = by_frequency(rows, |row| {
        Some(row.first().recipe_hash.clone()).filter(|hash| !hash.is_empty())
    });
    let most = recipes.first().map(|(hash, _)| hash.clone());
    let risen = |row: &Row<'_>| cx.has_risen(row).then(String::new);
    let mut all = vec![
        fewer_seeds(deltas),
        remark("Another recipe than most rows", move |row| {
            let own = &row.first().recipe_hash;
            (most.as_ref().is_some_and(|most| most != own)).then(|| format!(" ({own})"))
        }),
    ];
    all.extend(at_chance(cx));
    all.extend([
        few(),
        remark("Codebook fitted once", |row| {
            let first = row.first();
            (first.tcas.is_some() && first.fits() == 1).then(String::new)
        }),
        unconverged(),
        of_checkpoints(),
        labelled(),
        remark(NOT_LOWERED, risen),
        not_tested(deltas, rows, cx),
    ]);
    let of_row = |row: &Row<'_>| {
        let remarks = all.iter();
        let remarks = remarks.filter_map(|one| Some(one.what.clone() + &(one.of)(row)?));
        let overrides = cx.overrides_of(row).map(str::to_owned);
        let error = row.error().to_owned();
        let error = [error].into_iter().filter(|error| !error.is_empty());
        Vec::from_iter(remarks.chain(overrides).chain(error)).join("; ")
    };
    rows.iter().map(of_row).collect()
}
