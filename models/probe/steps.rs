//! The training steps of a probe, on whole batches, because BatchNorm needs a batch's statistics.

use candle_core::Tensor;

use super::head::{Head, Statistics};
use crate::compute::Compute;
use crate::encode::{Frozen, Pool};
use crate::error::{Error, Result};
use crate::feed::Batches;
use crate::gradients::Gradient;
use crate::objective::Settings;
use crate::optim::{AdamW, Group, Lars, Optimizer, Schedule, Slot};
use crate::resume::EpochRecord;
use crate::train::{self, Learner, RunContext, Training};

/// Hyperparameters of the probe.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Passes over the train split.
    pub epochs: usize,
    /// Images per step; at most the whole split.
    pub batch: usize,
    /// Learning rate after warm-up, or several, of which [`Choice`](super::Choice) selects one.
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

impl ProbeConfig {
    /// Returns the first rate, with which the schedule runs.
    pub(crate) fn first_rate(&self) -> Result<f64> {
        let lacks = || Error::Config("the probe has no learning rate".into());
        self.rates.first().copied().ok_or_else(lacks)
    }

    /// Returns the settings of a training on `images` images. BatchNorm makes zeros of a single image, so nothing would be learned from it.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch of one image, and without a rate.
    pub(crate) fn settings(&self, images: usize) -> Result<Settings> {
        let batch = self.batch.min(images);
        if batch < 2 {
            return Err(Error::Config(format!(
                "found batches of {batch} images (batch {}, {images} train images), expected at least 2, because BatchNorm needs their spread",
                self.batch
            )));
        }
        Ok(Settings {
            epochs: self.epochs,
            batch,
            len: images,
            seed: self.seed,
            order: "probe-order",
            schedule: Schedule {
                lr: self.first_rate()?,
                min_lr: 0.0,
                warmup_epochs: self.warmup_epochs,
                epochs: self.epochs as f64,
            },
        })
    }

    /// Creates the optimiser of `slots`.
    pub(crate) fn optimizer(
        &self,
        slots: Vec<Slot>,
        compute: &Compute,
    ) -> Result<Box<dyn Optimizer>> {
        Ok(match self.lars {
            true => Box::new(Lars::new(slots, compute)?),
            false => Box::new(AdamW::new(slots, (0.9, 0.999), compute)?),
        })
    }
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

/// Runs all training steps, with a learning rate per layer of `head`.
pub(super) fn learn(
    config: &ProbeConfig,
    head: &Head,
    data: &dyn ProbeData,
    labels: &[u32],
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let mut optimizer = optimizer(config, head)?;
    let settings = config.settings(labels.len())?;
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

fn optimizer(config: &ProbeConfig, head: &Head) -> Result<Box<dyn Optimizer>> {
    let (params, first) = (&head.params, config.first_rate()?);
    let group = |name: &str, _: &Tensor| Group {
        lr_scale: head
            .layer_of(name)
            .map_or(1.0, |at| config.rates[at] / first),
        weight_decay: config.weight_decay,
    };
    config.optimizer(train::slots(params, group), params.compute())
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
        _ = self.moved.normalize_batch(&mut x);
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
