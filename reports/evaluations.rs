//! The evaluations of an encoder, and of a tokenizer without one, one row each. Figures, comparisons, `bench compare`, tables and the page loop over them.

use std::collections::BTreeMap;

use crate::column::Column;
use crate::columns::Record;
use crate::error::Result;
use crate::paper::PaperRow;
use crate::seeds::mean_sd;

/// An evaluation of an encoder or of a tokenizer alone.
pub struct Evaluation {
    /// Key in names of figures and columns, and in `comparisons.csv`.
    pub key: &'static str,
    /// The stage that evaluates; `STAGE_seconds` is the column of its wall time.
    pub stage: &'static str,
    /// The part of a suite with its recipe.
    pub recipe: &'static str,
    /// Name within a sentence.
    pub title: &'static str,
    /// Abbreviation, in the ranking and on the terminal.
    pub short: &'static str,
    /// Header of its accuracy in tables.
    pub header: &'static str,
    /// Top-1 accuracy on the validation split.
    pub top1: Column,
    /// Top-5 accuracy, if it is measured.
    pub top5: Option<Column>,
    /// The vector that it reads, if the footnotes name it.
    pub pooling: Option<fn(&Record) -> &str>,
    /// File of its predictions in a cell's folder: u32 `[validation images, k]`, the best class first.
    pub predictions: Option<&'static str>,
    /// Caption of its training losses, if it trains.
    pub losses: Option<&'static str>,
    /// Whether it evaluates an encoder, for every seed; otherwise a tokenizer alone, with the same numbers for every seed.
    pub of_encoder: bool,
    /// Its accuracy in the paper's tables.
    pub printed: Option<fn(&PaperRow) -> Option<f64>>,
}

/// The stage that pretrains, and the part of a suite with its recipe.
pub const PRETRAIN: &str = "pretrain";

/// All evaluations, in the order of figures and tables. Rows are ranked by the first.
pub const EVALUATIONS: &[Evaluation] = &[
    Evaluation {
        key: "lp",
        stage: "probe",
        recipe: "linear_probe",
        title: "linear probing",
        short: "LP",
        header: "LP acc.",
        top1: Record::column("lp_top1"),
        top5: Some(Record::column("lp_top5")),
        pooling: Some(|record| &record.pooling_lp),
        predictions: Some("predictions-probe.npy"),
        losses: Some("Mean training loss of each epoch."),
        of_encoder: true,
        printed: Some(|row| row.lp_acc),
    },
    Evaluation {
        key: "ft",
        stage: "finetune",
        recipe: "fine_tune",
        title: "fine-tuning",
        short: "FT",
        header: "FT acc.",
        top1: Record::column("ft_top1"),
        top5: Some(Record::column("ft_top5")),
        pooling: Some(|record| &record.pooling_ft),
        predictions: Some("predictions-finetune.npy"),
        losses: Some(
            "Mean training loss of each epoch, on mixed and smoothed labels if the recipe says so.",
        ),
        of_encoder: true,
        printed: Some(|row| row.ft_acc),
    },
    Evaluation {
        key: "knn",
        stage: "knn",
        recipe: "knn",
        title: "k-NN",
        short: "k-NN",
        header: "k-NN",
        top1: Record::column("knn_top1"),
        top5: None,
        pooling: None,
        predictions: Some("predictions-knn.npy"),
        losses: None,
        of_encoder: true,
        printed: None,
    },
    Evaluation {
        key: "ap",
        stage: "attentive",
        recipe: "attentive_probe",
        title: "attentive probing",
        short: "AP",
        header: "AP acc.",
        top1: Record::column("ap_top1"),
        top5: Some(Record::column("ap_top5")),
        pooling: None,
        predictions: Some("predictions-attentive.npy"),
        losses: Some("Mean training loss of each epoch."),
        of_encoder: true,
        printed: None,
    },
    Evaluation {
        key: "bag",
        stage: "bag",
        recipe: "bag_of_tokens",
        title: "bag of tokens",
        short: "bag",
        header: "bag of tokens",
        top1: Record::column("bag_top1"),
        top5: Some(Record::column("bag_top5")),
        pooling: None,
        predictions: Some("predictions-bag.npy"),
        losses: None,
        of_encoder: false,
        printed: None,
    },
];

impl Evaluation {
    /// Returns the evaluation of a stage, if the stage is one.
    pub fn of_stage(stage: &str) -> Option<&'static Self> {
        EVALUATIONS.iter().find(|e| e.stage == stage)
    }

    /// Returns the evaluations with stored predictions, which allow comparisons image by image.
    pub fn compared() -> impl Iterator<Item = &'static Self> {
        EVALUATIONS.iter().filter(|e| e.predictions.is_some())
    }

    /// Sets the accuracies of a record. `number` returns the stage's result by name (`top1`, `top5`).
    ///
    /// # Errors
    /// [`Error::NoColumn`](crate::Error::NoColumn) if [`EVALUATIONS`] is wrong.
    pub fn take(&self, record: &mut Record, number: impl Fn(&str) -> Option<f64>) -> Result<()> {
        record.set(self.top1.name, number("top1"))?;
        self.top5
            .map_or(Ok(()), |top5| record.set(top5.name, number("top5")))
    }

    /// Returns the top-1 accuracy of a record, percent.
    pub fn accuracy(&self, record: &Record) -> Option<f64> {
        record.number(&self.top1)
    }

    /// Returns the mean accuracy of a row's records, one per seed, and its standard deviation, if there are several seeds and they may differ.
    pub fn over_seeds<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Option<(f64, Option<f64>)> {
        let accuracies = records
            .into_iter()
            .filter_map(|record| self.accuracy(record));
        let (mean, sd) = mean_sd(&Vec::from_iter(accuracies))?;
        Some((mean, sd.filter(|_| self.of_encoder)))
    }
}

/// Returns whether a model of the row was trained or evaluated.
pub fn is_trained(record: &Record) -> bool {
    let mut encoders = EVALUATIONS.iter().filter(|e| e.of_encoder);
    record.pretrain_loss.is_some() || encoders.any(|e| e.accuracy(record).is_some())
}

/// Says which accuracies of a row are means over fewer seeds than it has records: `LP, FT over 2 of 3 seeds`.
pub fn over_fewer_seeds(records: &[&Record]) -> Option<String> {
    let mut by_seeds: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for evaluation in EVALUATIONS.iter().filter(|e| e.of_encoder) {
        let has = records.iter().filter(|r| evaluation.accuracy(r).is_some());
        by_seeds
            .entry(has.count())
            .or_default()
            .push(evaluation.short);
    }
    let all = records.len();
    let fewer = by_seeds.iter().filter(|(n, _)| (1..all).contains(n));
    let said = fewer.map(|(n, which)| format!("{} over {n} of {all} seeds", which.join(", ")));
    let said = Vec::from_iter(said).join("; ");
    (!said.is_empty()).then_some(said)
}

/// Capitalises the first letter.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "± 0.0" would say that trainings hardly differ.
    #[test]
    fn what_is_the_same_for_every_seed_has_no_deviation() {
        let record = |seed| Record {
            seed,
            lp_top1: Some(60.0 + seed as f64),
            bag_top1: Some(50.0),
            ..Record::default()
        };
        let records = [record(0), record(2)];
        for evaluation in EVALUATIONS {
            let deviation = match evaluation.key {
                "lp" => Some((61.0, Some(2.0_f64.sqrt()))),
                "bag" => Some((50.0, None)),
                _ => None,
            };
            assert_eq!(evaluation.over_seeds(&records), deviation);
        }
    }
}
