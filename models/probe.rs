//! Linear probing (MAE `main_linprobe.py`): BatchNorm without affine parameters and a linear layer on vectors of the frozen encoder.

mod choice;
mod convergence;
mod head;

use candle_core::Tensor;

use crate::compute::Compute;
use crate::encode::{Frozen, Pool};
use crate::error::{Error, Result};
use crate::feed::Batches;
use crate::gradients::Gradient;
use crate::knn::Labelled;
use crate::objective::Settings;
use crate::optim::{AdamW, Group, Lars, Optimizer, Schedule};
use crate::params::ParamStore;
use crate::resume::EpochRecord;
use crate::train::{self, Learner, RunContext, Training};
pub use choice::{Choice, held_out};
use head::{Head, Statistics};

/// Hyperparameters of the probe.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Passes over the train split.
    pub epochs: usize,
    /// Images per step; at most the whole split.
    pub batch: usize,
    /// Learning rate after warm-up, or several, of which [`Choice`] selects one.
    pub rates: Vec<f64>,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Use LARS (MAE); otherwise AdamW.
    pub lars: bool,
    /// Seed of initialisation and order.
    pub seed: u64,
}

/// A source of the train images' vectors.
pub trait ProbeData {
    /// Returns the vectors of `indices` with the augmentation of epoch `epoch`, `[indices, dim]`.
    ///
    /// # Errors
    /// If an image cannot be read.
    fn features(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>>;
}

impl ProbeData for (&Frozen, Pool) {
    fn features(&self, _: usize, indices: &[usize]) -> Result<Vec<f32>> {
        let (frozen, pool) = self;
        let all = frozen.pooled(*pool);
        let mut vectors = Vec::with_capacity(indices.len() * frozen.dim);
        for i in indices {
            vectors.extend_from_slice(&all[i * frozen.dim..(i + 1) * frozen.dim]);
        }
        Ok(vectors)
    }
}

/// Accuracy on the validation split, in percent, and the predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Percentage of images whose class has the highest score.
    pub top1: f64,
    /// Percentage of images whose class is among the five highest scores.
    pub top5: f64,
    /// Classes of each image with the highest scores, best first, `[images, min(5, classes)]`.
    pub predictions: Vec<u32>,
    /// Classes per image in `predictions`.
    pub columns: usize,
}

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

/// Runs all training steps, with a learning rate per layer of `head`.
fn learn(
    config: &ProbeConfig,
    head: &Head,
    data: &dyn ProbeData,
    labels: &[u32],
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let first = config.rates.first();
    let first = *first.ok_or_else(|| Error::Config("the probe has no learning rate".into()))?;
    let mut optimizer = optimizer(config, first, head)?;
    let settings = Settings {
        epochs: config.epochs,
        batch: config.batch.clamp(1, labels.len()),
        len: labels.len(),
        seed: config.seed,
        order: "probe-order",
        schedule: Schedule {
            lr: first,
            min_lr: 0.0,
            warmup_epochs: config.warmup_epochs,
            epochs: config.epochs as f64,
        },
    };
    let batches = Batches::new(&settings);
    let training = Training::begin(&head.params, optimizer.as_mut(), &settings, &batches, cx)?;
    let mut learner = WholeBatches {
        head,
        data,
        labels,
        batches: &batches,
        running: head.running()?,
        moved: Statistics::default(),
        gradient: Gradient::Lists(Vec::new()),
    };
    training.run(optimizer.as_mut(), &mut learner)
}

fn optimizer(config: &ProbeConfig, first: f64, head: &Head) -> Result<Box<dyn Optimizer>> {
    let params = &head.params;
    let group = |name: &str, _: &Tensor| Group {
        lr_scale: head
            .layer_of(name)
            .map_or(1.0, |at| config.rates[at] / first),
        weight_decay: config.weight_decay,
    };
    let slots = train::slots(params, group);
    Ok(match config.lars {
        true => Box::new(Lars::new(slots, params.compute())?),
        false => Box::new(AdamW::new(slots, (0.9, 0.999), params.compute())?),
    })
}

/// Computes steps on whole batches, because BatchNorm needs a batch's statistics.
struct WholeBatches<'a> {
    head: &'a Head,
    data: &'a dyn ProbeData,
    labels: &'a [u32],
    batches: &'a Batches,
    running: Statistics,
    /// `running` after the last batch; takes effect when the step does.
    moved: Statistics,
    gradient: Gradient,
}

impl Learner for WholeBatches<'_> {
    fn loss(&mut self, now: usize) -> Result<f64> {
        let indices = self.batches.of(now);
        let mut x = self
            .data
            .features(now / self.batches.per_epoch(), &indices)?;
        let labels: Vec<u32> = indices.iter().map(|i| self.labels[*i]).collect();
        self.moved = self.running.clone();
        self.moved.normalize_batch(&mut x);
        let sums = self.head.gradients(x, &labels)?;
        let loss = sums.checked_loss()?;
        self.gradient = sums.gradient;
        Ok(loss)
    }

    fn gradient(&self) -> &Gradient {
        &self.gradient
    }

    fn moved(&mut self) -> Result<()> {
        std::mem::swap(&mut self.running, &mut self.moved);
        self.head.set_running(&self.running)
    }
}

/// Computes top-1 and top-5 accuracy of scores `[images, classes]`; the lower class wins a tie.
pub fn evaluate(scores: &[f32], classes: usize, labels: &[u32]) -> Evaluation {
    let columns = classes.min(5);
    let mut predictions = Vec::with_capacity(labels.len() * columns);
    let (mut top1, mut top5) = (0, 0);
    for (scores, label) in scores.chunks_exact(classes).zip(labels) {
        let mut best: Vec<u32> = (0..classes as u32).collect();
        best.sort_by(|a, b| {
            scores[*b as usize]
                .total_cmp(&scores[*a as usize])
                .then(a.cmp(b))
        });
        best.truncate(columns);
        top1 += usize::from(best[0] == *label);
        top5 += usize::from(best.contains(label));
        predictions.extend(best);
    }
    let percent = |n: usize| 100.0 * n as f64 / labels.len().max(1) as f64;
    Evaluation {
        top1: percent(top1),
        top5: percent(top5),
        predictions,
        columns,
    }
}

#[cfg(test)]
mod tests;
