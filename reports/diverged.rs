//! Names rows whose training has not lowered its loss, or ends above that of a guess, on the page and under the tables.

use crate::columns::Record;
use crate::evaluations::{EVALUATIONS, Evaluation, PRETRAIN, capitalised};
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

/// Names rows of `losses` whose training with labels ends with a larger mean loss than that of a uniform guess of n classes, ln n. Label
/// smoothing and mixed targets leave that of a uniform guess as it is.
pub fn no_better_than_a_guess(records: &[Record], losses: &[(String, Curve)]) -> Vec<String> {
    let named = |evaluation: &Evaluation| {
        let of_stage = losses.iter().filter(|(stage, _)| stage == evaluation.stage);
        let rows = of_stage.filter_map(|(_, curve)| {
            let last = curve.points.last()?.1;
            let record = records.iter().find(|r| r.tokenizer == curve.name)?;
            let guess = (record.n_classes as f64).ln();
            let is_worse = record.n_classes > 1 && last > guess;
            let (loss, guess) = (shown(last), shown(guess));
            is_worse.then(|| {
                format!(
                    "{} ({loss}, ln {} is {guess})",
                    curve.name, record.n_classes
                )
            })
        });
        let rows = Vec::from_iter(rows);
        (!rows.is_empty()).then(|| {
            format!(
                "{} ends with a larger training loss than that of a uniform guess for {}. It is far from trained, or has diverged: try more \
                 epochs, or another `{}.base_lr`.",
                capitalised(evaluation.title),
                rows.join("; "),
                evaluation.recipe
            )
        })
    };
    EVALUATIONS.iter().filter_map(named).collect()
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

    /// Fine-tuning with a loss of 496311 was "ok" without a word.
    #[test]
    fn a_training_with_labels_that_ends_above_a_uniform_guess_is_named() {
        let records = ["K", "A"].map(|name| Record {
            tokenizer: name.into(),
            n_classes: 10,
            ..Record::default()
        });
        let curve = |name: &str, last| Curve {
            name: name.into(),
            points: vec![(0.0, 2.5), (1.0, last)],
        };
        let losses = [
            ("finetune".to_owned(), curve("K", 2.30)),
            ("finetune".to_owned(), curve("A", 496_311.0)),
            ("attentive".to_owned(), curve("A", 2.31)),
            ("pretrain".to_owned(), curve("A", 9.0)),
        ];
        let said = no_better_than_a_guess(&records, &losses).join("\n");
        for part in [
            "Fine-tuning ends with a larger training loss than that of a uniform guess for A (5.0e5, ln 10 is 2.30).",
            "Attentive probing ends with a larger training loss than that of a uniform guess for A (2.31, ln 10 is 2.30).",
            "`fine_tune.base_lr`",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("K (") && said.lines().count() == 2, "{said}");
    }

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
