//! The results of a run that `bench compare` reads.

use std::collections::BTreeMap;

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
