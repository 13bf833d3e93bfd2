//! Linear probing (MAE `main_linprobe.py`): BatchNorm without affine parameters and a linear layer on vectors of the frozen encoder.

pub(crate) mod choice;
mod convergence;
mod evaluation;
pub(crate) mod head;
mod steps;

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::knn::Labelled;
use crate::params::ParamStore;
use crate::resume::EpochRecord;
use crate::train::RunContext;
pub use choice::{Choice, held_out};
pub use evaluation::{Evaluation, evaluate};
use head::Head;
use steps::learn;
pub use steps::{ProbeConfig, ProbeData};

/// A trained probe: `head.0.running_mean|running_var`, `head.1.weight|bias` (MAE's names).
pub struct Probed {
    /// Its parameters.
    pub params: ParamStore,
    /// One record per epoch.
    pub history: Vec<EpochRecord>,
    /// Accuracy after the last epoch.
    pub evaluation: Evaluation,
    /// How the learning rate was chosen, if there were several.
    pub choice: Option<Choice>,
    /// Fraction by which one further step over all train images lowers the training loss at least. It is 0 at the optimum.
    pub remaining_fall: f64,
}

/// Trains a probe on `data` and evaluates it on `val`.
///
/// # Errors
/// [`Error::Interrupted`], [`Error::NotFinite`], or an error of the data source.
pub fn probe(
    config: &ProbeConfig,
    dim: usize,
    classes: usize,
    data: &dyn ProbeData,
    train_labels: &[u32],
    val: Labelled<'_>,
    cx: &RunContext<'_>,
) -> Result<Probed> {
    if train_labels.is_empty() {
        return Err(Error::Data("the probe has no train images".into()));
    }
    let head = Head::new(dim, classes, 1, config.seed, &cx.compute)?;
    let choice = match config.rates.len() {
        1 => None,
        _ => Some(choice::choose(config, &head, data, train_labels, cx)?),
    };
    let at = choice.as_ref().map_or(0, |choice| choice.best);
    let chosen = ProbeConfig {
        rates: config.rates.get(at..=at).unwrap_or_default().to_vec(),
        ..config.clone()
    };
    let probed = train_head(&chosen, head, data, train_labels, val, cx)?;
    Ok(Probed { choice, ..probed })
}

fn train_head(
    config: &ProbeConfig,
    head: Head,
    data: &dyn ProbeData,
    train_labels: &[u32],
    val: Labelled<'_>,
    cx: &RunContext<'_>,
) -> Result<Probed> {
    let history = learn(config, &head, data, train_labels, cx)?;
    let remaining_fall = convergence::remaining_fall(config, &head, data, train_labels, cx)?;
    let scores = head.scores(val.features)?;
    let evaluation = evaluate(&scores[0], head.classes()?, val.labels);
    Ok(Probed {
        params: head.params.on(&Compute::default())?,
        history,
        evaluation,
        choice: None,
        remaining_fall,
    })
}

#[cfg(test)]
mod tests;
