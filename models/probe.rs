//! Linear probing (MAE `main_linprobe.py`): BatchNorm without affine, then a linear layer, on the frozen encoder's vectors.
//!
//! Nothing below the linear layer learns, so its gradient is written out: `dW = (softmax - onehot)^T x / batch`.

use candle_core::Tensor;
use rand_distr::{Distribution, Normal};

use crate::encode::Frozen;
use crate::gradients::{Gradient, Loss, Sums, layout};
use crate::knn::Labelled;
use crate::optim::{AdamW, Group, Lars, Optimizer, Schedule};
use crate::rng::keyed_rng;
use crate::train::{self, EpochRecord, Progress, RunContext};
use crate::{Compute, Error, ParamStore, Result};
use rand::seq::SliceRandom;

/// BatchNorm's epsilon in MAE's probe.
const EPS: f32 = 1e-6;
/// PyTorch's momentum of running statistics.
const MOMENTUM: f32 = 0.1;

/// The recipe.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Passes over the train split.
    pub epochs: usize,
    /// Images per step; at most the whole split.
    pub batch: usize,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// LARS (MAE) or AdamW.
    pub lars: bool,
    /// Seed of initialisation and order.
    pub seed: u64,
}

/// Vectors of the train images, per epoch.
pub trait ProbeData {
    /// The vectors of `indices` as epoch `epoch` sees them, `[indices, dim]`.
    ///
    /// # Errors
    /// When an image cannot be read.
    fn features(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>>;
}

impl ProbeData for (&Frozen, crate::encode::Pool) {
    fn features(&self, _: usize, indices: &[usize]) -> Result<Vec<f32>> {
        let (frozen, pool) = self;
        let all = frozen.pooled(*pool);
        Ok(indices
            .iter()
            .flat_map(|i| &all[i * frozen.dim..(i + 1) * frozen.dim])
            .copied()
            .collect())
    }
}

/// Accuracy on the validation split, in percent, and what was predicted.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Share of images whose best class is right.
    pub top1: f64,
    /// Share of images whose class is among the best five.
    pub top5: f64,
    /// Best classes of each image, best first, `[images, min(5, classes)]`.
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
}

/// Trains a probe on `data` and evaluates it on `val`.
///
/// # Errors
/// [`Error::Interrupted`], [`Error::NotFinite`], and what the data source says.
pub fn probe(
    config: &ProbeConfig,
    dim: usize,
    classes: usize,
    data: &dyn ProbeData,
    train_labels: &[u32],
    val: Labelled<'_>,
    cx: &RunContext<'_>,
) -> Result<Probed> {
    let head = Head::new(dim, classes, config.seed, &cx.compute)?;
    train_head(config, head, data, train_labels, val, cx)
}

fn train_head(
    config: &ProbeConfig,
    mut head: Head,
    data: &dyn ProbeData,
    train_labels: &[u32],
    val: Labelled<'_>,
    cx: &RunContext<'_>,
) -> Result<Probed> {
    let history = learn(config, &mut head, data, train_labels, cx)?;
    if !head.params.is_finite()? {
        return Err(Error::Spoilt {
            last_good: "none".into(),
        });
    }
    let scores = head.scores(val.features)?;
    let evaluation = evaluate(&scores, head.classes()?, val.labels);
    Ok(Probed {
        params: head.finished()?,
        history,
        evaluation,
    })
}

fn optimizer(config: &ProbeConfig, params: &ParamStore) -> Result<Box<dyn Optimizer>> {
    let group = |_: &str, _: &Tensor| Group {
        lr_scale: 1.0,
        weight_decay: config.weight_decay,
    };
    let slots = train::slots(params, group);
    Ok(match config.lars {
        true => Box::new(Lars::new(slots, params.compute())?),
        false => Box::new(AdamW::new(slots, (0.9, 0.999), params.compute())?),
    })
}

/// All steps of the recipe.
fn learn(
    config: &ProbeConfig,
    head: &mut Head,
    data: &dyn ProbeData,
    labels: &[u32],
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let mut optimizer = optimizer(config, &head.params)?;
    let schedule = Schedule {
        lr: config.lr,
        min_lr: 0.0,
        warmup_epochs: config.warmup_epochs,
        epochs: config.epochs as f64,
    };
    let batch = config.batch.min(labels.len()).max(1);
    let per_epoch = labels.len() / batch;
    let steps = config.epochs * per_epoch;
    let (mut history, mut skipped, mut in_row) = (Vec::new(), 0, 0);
    for epoch in 0..config.epochs {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.shuffle(&mut keyed_rng(config.seed, "probe-order", epoch as u64, 0));
        let (mut sum, mut lr, before) = (0.0, 0.0, skipped);
        for (step, indices) in order.chunks(batch).take(per_epoch).enumerate() {
            if (cx.interrupted)() {
                return Err(Error::Interrupted);
            }
            lr = schedule.at(epoch as f64 + step as f64 / per_epoch as f64);
            let x = data.features(epoch, indices)?;
            let labels: Vec<u32> = indices.iter().map(|i| labels[*i]).collect();
            let loss = head.step(x, &labels, optimizer.as_mut(), lr)?;
            match loss.is_finite() {
                true => (sum, in_row) = (sum + loss, 0),
                false => (skipped, in_row) = (skipped + 1, in_row + 1),
            }
            let step = epoch * per_epoch + step;
            (cx.progress)(&Progress {
                step: step + 1,
                steps,
                loss,
                skipped,
            });
            if train::is_over(in_row, step + 1 == steps) {
                return Err(Error::NotFinite {
                    loss,
                    in_row,
                    step,
                    last_good: "none".into(),
                });
            }
        }
        history.push(EpochRecord {
            epoch,
            lr,
            train_loss: sum / (per_epoch - (skipped - before)) as f64,
            skipped_steps: skipped - before,
        });
    }
    Ok(history)
}

/// Top-1 and top-5 of scores `[images, classes]`; the lower class first on a tie.
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

struct Head {
    dim: usize,
    params: ParamStore,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Head {
    /// In f32 whatever the encoder computed in: it is small.
    fn new(dim: usize, classes: usize, seed: u64, compute: &Compute) -> Result<Self> {
        let mut rng = keyed_rng(seed, "init probe", 0, 0);
        let normal = Normal::new(0.0_f32, 0.01).map_err(|e| Error::Config(e.to_string()))?;
        // timm's trunc_normal_ cuts at +-2, two hundred deviations off: a plain normal.
        let weight = (0..classes * dim)
            .map(|_| normal.sample(&mut rng))
            .collect();
        let mut params = ParamStore::default();
        params.add("head.1.weight", &[classes, dim], weight, true)?;
        params.add("head.1.bias", &[classes], vec![0.0; classes], true)?;
        Ok(Self {
            dim,
            params: params.on(&compute.in_f32())?,
            mean: vec![0.0; dim],
            variance: vec![1.0; dim],
        })
    }

    fn classes(&self) -> Result<usize> {
        Ok(self.params.get("head.1.bias")?.elem_count())
    }

    /// One step over `x` `[labels, dim]`; a loss that is not finite, or a NaN, where it changed nothing.
    fn step(
        &mut self,
        mut x: Vec<f32>,
        labels: &[u32],
        optimizer: &mut dyn Optimizer,
        lr: f64,
    ) -> Result<f64> {
        let before = (self.mean.clone(), self.variance.clone());
        self.normalize_batch(&mut x);
        let sums = self.gradients(x, labels)?;
        let loss = sums.checked_loss()?;
        match loss.is_finite() {
            true => optimizer.step(&sums.gradient, lr)?,
            false => (self.mean, self.variance) = before,
        }
        Ok(loss)
    }

    /// Normalises by the batch's statistics and moves the running ones (with the unbiased variance, as PyTorch).
    fn normalize_batch(&mut self, x: &mut [f32]) {
        let n = (x.len() / self.dim) as f64;
        for d in 0..self.dim {
            let column = || x.iter().skip(d).step_by(self.dim).map(|v| f64::from(*v));
            let mean = column().sum::<f64>() / n;
            let variance = column().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let unbiased = if n > 1.0 {
                variance * n / (n - 1.0)
            } else {
                variance
            };
            self.mean[d] += MOMENTUM * (mean as f32 - self.mean[d]);
            self.variance[d] += MOMENTUM * (unbiased as f32 - self.variance[d]);
            let (mean, scale) = (mean as f32, 1.0 / (variance as f32 + EPS).sqrt());
            x.iter_mut()
                .skip(d)
                .step_by(self.dim)
                .for_each(|v| *v = (*v - mean) * scale);
        }
    }

    /// Mean cross-entropy and the gradients of weight and bias. The products are made where the parameters are.
    fn gradients(&self, x: Vec<f32>, labels: &[u32]) -> Result<Sums> {
        let (rows, compute) = (labels.len(), self.params.compute());
        let x = Tensor::from_vec(x, (rows, self.dim), compute.device())?;
        let mut scores = self.linear(&x)?;
        let classes = scores.len() / rows;
        let mut loss = 0.0;
        for (scores, label) in scores.chunks_exact_mut(classes).zip(labels) {
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = scores.iter().map(|s| (s - top).exp()).sum();
            loss += f64::from(total.ln() + top - scores[*label as usize]);
            scores
                .iter_mut()
                .for_each(|s| *s = (*s - top).exp() / total / rows as f32);
            scores[*label as usize] -= 1.0 / rows as f32;
        }
        let bias: Vec<f32> = (0..classes)
            .map(|c| scores.iter().skip(c).step_by(classes).sum())
            .collect();
        let bias = Tensor::from_vec(bias, classes, compute.device())?;
        let scores = Tensor::from_vec(scores, (rows, classes), compute.device())?;
        let weight = scores.t()?.matmul(&x)?;
        let flat = layout(&self.params);
        Ok(Sums {
            loss: Loss::Number(loss / rows as f64),
            gradient: Gradient::of(compute, &flat, &[&weight, &bias])?,
        })
    }

    fn linear(&self, x: &Tensor) -> Result<Vec<f32>> {
        let weight = self.params.get("head.1.weight")?.detach();
        let scores = x
            .matmul(&weight.t()?)?
            .broadcast_add(&self.params.get("head.1.bias")?.detach())?;
        Ok(scores.flatten_all()?.to_vec1()?)
    }

    /// Scores by the running statistics.
    fn scores(&self, features: &[f32]) -> Result<Vec<f32>> {
        let normalised = features.iter().enumerate().map(|(at, v)| {
            let d = at % self.dim;
            (v - self.mean[d]) / (self.variance[d] + EPS).sqrt()
        });
        let x: Vec<f32> = normalised.collect();
        self.linear(&Tensor::from_vec(
            x,
            (features.len() / self.dim, self.dim),
            self.params.compute().device(),
        )?)
    }

    fn finished(self) -> Result<ParamStore> {
        let mut params = self.params.on(&Compute::default())?;
        params.add("head.0.running_mean", &[self.dim], self.mean, false)?;
        params.add("head.0.running_var", &[self.dim], self.variance, false)?;
        Ok(params)
    }
}

#[cfg(test)]
mod tests;
