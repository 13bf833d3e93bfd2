//! Names rows whose pretraining has not lowered its loss, on the page and under the tables.

use crate::evaluations::PRETRAIN;
use crate::figure::Curve;
use crate::number::signed;

/// What is said of such rows.
pub const NOT_LOWERED: &str = "Pretraining has not lowered its loss";

/// Returns the rows of `losses` whose last epoch of pretraining has a larger loss than the first, with both.
pub fn risen_rows(losses: &[(String, Curve)]) -> impl Iterator<Item = (&str, f64, f64)> {
    let curves = losses.iter().filter(|(stage, _)| stage == PRETRAIN);
    curves.filter_map(|(_, curve)| {
        let (first, last) = (curve.points.first()?.1, curve.points.last()?.1);
        (last > first).then_some((curve.name.as_str(), first, last))
    })
}

/// Returns these rows and a remedy, to follow [`NOT_LOWERED`].
pub fn risen(losses: &[(String, Curve)]) -> Option<String> {
    let shown = |loss: f64| match loss.abs() < 1e4 {
        true => signed(loss, 2),
        false => format!("{loss:.1e}"),
    };
    let named = |(row, first, last)| format!("{row} ({} to {})", shown(first), shown(last));
    let rows: Vec<String> = risen_rows(losses).map(named).collect();
    (!rows.is_empty()).then(|| {
        format!(
            ": its mean over the seeds is larger in the last epoch than in the first for {}. It diverged or learned nothing; try another \
             `pretrain.base_lr`.",
            rows.join("; ")
        )
    })
}

/// Returns the note of tables on such rows.
pub fn not_lowered(losses: &[(String, Curve)]) -> Option<String> {
    Some(format!("{NOT_LOWERED}{}", risen(losses)?))
}
