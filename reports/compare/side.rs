//! The results of a run that `bench compare` reads.

use std::collections::{BTreeMap, HashMap};

use crate::columns::{MetricRow, Record};
use crate::paired::Predicted;

/// The results of a run.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// `results.csv`.
    pub records: Vec<Record>,
    /// `metrics.csv`; may be empty.
    pub metrics: Vec<MetricRow>,
    /// If the run folder has predictions: by key of the evaluation, the images whose best class is right; by name of the column of a
    /// top-5 accuracy, those of which one of the best five is.
    pub predicted: BTreeMap<&'static str, Vec<Predicted>>,
}

impl Side {
    /// Returns the results of each tokenizer.
    pub(super) fn by_tokenizer(&self) -> HashMap<&str, Self> {
        let mut all: HashMap<&str, Self> = HashMap::new();
        for record in &self.records {
            let one = all.entry(&record.tokenizer).or_default();
            one.records.push(record.clone());
        }
        for row in &self.metrics {
            if let Some(one) = all.get_mut(row.tokenizer.as_str()) {
                one.metrics.push(row.clone());
            }
        }
        for (key, predicted) in &self.predicted {
            // A key without predictions of a row still says that the folder has some.
            all.values_mut()
                .for_each(|one| _ = one.predicted.entry(key).or_default());
            for of in predicted {
                if let Some(one) = all.get_mut(of.tokenizer.as_str()) {
                    one.predicted.entry(key).or_default().push(of.clone());
                }
            }
        }
        all
    }
}
