//! Names rows whose pretraining has not lowered its loss, on the page and under the tables.

use crate::columns::Record;
use crate::evaluations::PRETRAIN;
use crate::figure::Curve;
use crate::number::signed;
use crate::seeds::names;

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

fn shown(loss: f64) -> String {
    match loss.abs() < 1e4 {
        true => signed(loss, 2),
        false => format!("{loss:.1e}"),
    }
}

/// Names rows whose pretraining ends with a loss that is a tenth larger than that of a uniform guess of K codes, ln K, in some seed. What learns
/// nothing ends near ln K.
pub fn worse_than_a_guess(records: &[Record]) -> Option<String> {
    let named = |name: &&str| {
        let of_row = |r: &&Record| r.tokenizer == *name && r.code_groups.is_empty();
        let losses = records.iter().filter(of_row).filter_map(|r| {
            let guess = (r.codebook_size? as f64).ln();
            Some((r.pretrain_loss.filter(|loss| *loss > 1.1 * guess)?, guess))
        });
        let (loss, guess) = losses.max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(format!(
            "{name} ({}, ln K is {})",
            shown(loss),
            shown(guess)
        ))
    };
    let rows: Vec<String> = names(records).iter().filter_map(named).collect();
    (!rows.is_empty()).then(|| {
        format!(
            "Pretraining ends with a larger loss than that of a uniform guess for {}. It is far from trained, or has diverged: try more epochs, or another `pretrain.base_lr`.",
            rows.join("; ")
        )
    })
}

/// Returns the rows of [`risen_rows`] and a remedy, to follow [`NOT_LOWERED`].
pub fn risen(losses: &[(String, Curve)]) -> Option<String> {
    let named = |(row, first, last)| format!("{row} ({} to {})", shown(first), shown(last));
    let rows: Vec<String> = risen_rows(losses).map(named).collect();
    (!rows.is_empty()).then(|| {
        format!(
            ": its mean over the seeds is larger in the last epoch than in the first for {}. Trainings that diverged or learned \
             nothing look so; try another `pretrain.base_lr`.",
            rows.join("; ")
        )
    })
}

/// Returns the note of tables on such rows.
pub fn not_lowered(losses: &[(String, Curve)]) -> Option<String> {
    Some(format!("{NOT_LOWERED}{}", risen(losses)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_above_that_of_a_uniform_guess_is_named() {
        let record = |name: &str, k, loss| Record {
            tokenizer: name.into(),
            codebook_size: k,
            pretrain_loss: Some(loss),
            ..Record::default()
        };
        let mut all = vec![
            record("K", Some(4), 1.39),
            record("A", Some(4), 3144.3),
            record("HOG", None, 7.0),
        ];
        let said = worse_than_a_guess(&all).unwrap();
        assert!(
            said.contains("guess for A (3144.30, ln K is 1.39). It is far from trained, or"),
            "{said}"
        );
        all.remove(1);
        assert_eq!(worse_than_a_guess(&all), None);
    }
}
