//! The head of a linear probe. Only the linear layer is trained, so its gradient is computed explicitly:
//! `dW = (softmax - onehot)^T x / batch`.

use candle_core::Tensor;
use rand_distr::{Distribution, Normal};

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::gradients::{BatchSums, Gradient, Loss, layout};
use crate::params::ParamStore;
use crate::rng::keyed_rng;

/// BatchNorm's epsilon in MAE's probe.
const EPS: f32 = 1e-6;
/// Momentum of running statistics, PyTorch's default.
const MOMENTUM: f32 = 0.1;
const MEAN: &str = "head.0.running_mean";
const VARIANCE: &str = "head.0.running_var";

/// BatchNorm and the linear layer: `head.1.weight`, `head.1.bias`, `head.0.running_mean`, `head.0.running_var` (MAE's names).
pub(super) struct Head {
    /// Length of a vector.
    pub dim: usize,
    /// Parameters, always f32.
    pub params: ParamStore,
}

impl Head {
    /// Creates a head in f32, whatever the encoder's precision: the head is small.
    pub fn new(dim: usize, classes: usize, seed: u64, compute: &Compute) -> Result<Self> {
        let mut rng = keyed_rng(seed, "init probe", 0, 0);
        let normal = Normal::new(0.0_f32, 0.01).map_err(|e| Error::Config(e.to_string()))?;
        // timm's trunc_normal_ truncates at +-2, which is 200 standard deviations, so a plain normal is equivalent.
        let weight = (0..classes * dim)
            .map(|_| normal.sample(&mut rng))
            .collect();
        let mut params = ParamStore::default();
        params.add("head.1.weight", &[classes, dim], weight, true)?;
        params.add("head.1.bias", &[classes], vec![0.0; classes], true)?;
        params.add(MEAN, &[dim], vec![0.0; dim], false)?;
        params.add(VARIANCE, &[dim], vec![1.0; dim], false)?;
        Ok(Self {
            dim,
            params: params.on(&compute.in_f32())?,
        })
    }

    /// Number of classes.
    pub fn classes(&self) -> Result<usize> {
        Ok(self.params.get("head.1.bias")?.elem_count())
    }

    /// Computes the mean cross-entropy and the gradients of weight and bias. The products run on the parameters' device.
    pub fn gradients(&self, x: Vec<f32>, labels: &[u32]) -> Result<BatchSums> {
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
        Ok(BatchSums {
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

    /// Computes scores with the running statistics.
    pub fn scores(&self, features: &[f32]) -> Result<Vec<f32>> {
        let Statistics { mean, variance } = self.running()?;
        let normalised = features.iter().enumerate().map(|(at, v)| {
            let d = at % self.dim;
            (v - mean[d]) / (variance[d] + EPS).sqrt()
        });
        let x: Vec<f32> = normalised.collect();
        self.linear(&Tensor::from_vec(
            x,
            (features.len() / self.dim, self.dim),
            self.params.compute().device(),
        )?)
    }

    pub fn running(&self) -> Result<Statistics> {
        let values = |name| -> Result<Vec<f32>> { Ok(self.params.get(name)?.to_vec1()?) };
        Ok(Statistics {
            mean: values(MEAN)?,
            variance: values(VARIANCE)?,
        })
    }

    pub fn set_running(&self, running: &Statistics) -> Result<()> {
        self.params.set(MEAN, running.mean.clone())?;
        self.params.set(VARIANCE, running.variance.clone())
    }
}

/// BatchNorm's running statistics, `[dim]` each.
#[derive(Clone, Default)]
pub(super) struct Statistics {
    pub mean: Vec<f32>,
    /// Unbiased variance.
    pub variance: Vec<f32>,
}

impl Statistics {
    /// Normalises `x` `[batch, dim]` with the batch's statistics and updates the running ones (with the unbiased variance, as PyTorch).
    pub fn normalize_batch(&mut self, x: &mut [f32]) {
        let dim = self.mean.len();
        let n = (x.len() / dim) as f64;
        for d in 0..dim {
            let column = || x.iter().skip(d).step_by(dim).map(|v| f64::from(*v));
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
                .step_by(dim)
                .for_each(|v| *v = (*v - mean) * scale);
        }
    }
}
