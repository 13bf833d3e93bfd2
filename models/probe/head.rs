//! The head of a linear probe. Only the linear layer is trained, so its gradient is computed explicitly:
//! `dW = (softmax - onehot)^T x / batch`.

use candle_core::Tensor;
use rand_distr::{Distribution, Normal};
use tessera_kernels::ops::matmul;

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::gradients::{BatchSums, Gradient, Loss, layout};
use crate::params::ParamStore;
use crate::rng::keyed_rng;

/// BatchNorm's epsilon in MAE's probe.
pub(crate) const EPS: f32 = 1e-6;
/// Momentum of running statistics, PyTorch's default.
const MOMENTUM: f32 = 0.1;
pub(crate) const MEAN: &str = "head.0.running_mean";
pub(crate) const VARIANCE: &str = "head.0.running_var";

/// BatchNorm and linear layers on its output: one layer, or one per learning rate that is tried. The parameters of a single layer are
/// `head.1.weight`, `head.1.bias`, `head.0.running_mean`, `head.0.running_var` (MAE's names).
pub(super) struct Head {
    /// Length of a vector.
    pub dim: usize,
    /// Parameters, always f32.
    pub params: ParamStore,
    /// Names of the weight and the bias of each layer.
    layers: Vec<[String; 2]>,
}

impl Head {
    /// Creates a head in f32, whatever the encoder's precision: the head is small. All `layers` begin with the same values.
    pub fn new(
        dim: usize,
        classes: usize,
        layers: usize,
        seed: u64,
        compute: &Compute,
    ) -> Result<Self> {
        let normal = Normal::new(0.0_f32, 0.01).map_err(|e| Error::Config(e.to_string()))?;
        let names = |at: usize| {
            let prefix = match layers {
                1 => String::new(),
                _ => format!("rate.{at}."),
            };
            ["weight", "bias"].map(|kind| format!("{prefix}head.1.{kind}"))
        };
        let layers: Vec<[String; 2]> = (0..layers).map(names).collect();
        let mut params = ParamStore::default();
        for [weight, bias] in &layers {
            let mut rng = keyed_rng(seed, "init probe", 0, 0);
            // timm's trunc_normal_ truncates at +-2, which is 200 standard deviations, so a plain normal is equivalent.
            let values = (0..classes * dim)
                .map(|_| normal.sample(&mut rng))
                .collect();
            params.add(weight, &[classes, dim], values, true)?;
            params.add(bias, &[classes], vec![0.0; classes], true)?;
        }
        params.add(MEAN, &[dim], vec![0.0; dim], false)?;
        params.add(VARIANCE, &[dim], vec![1.0; dim], false)?;
        Ok(Self {
            dim,
            params: params.on(&compute.in_f32())?,
            layers,
        })
    }

    /// Returns the layer that has the parameter `name`.
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        let has = |names: &[String; 2]| names.iter().any(|own| own == name);
        self.layers.iter().position(has)
    }

    /// Number of classes.
    pub fn classes(&self) -> Result<usize> {
        Ok(self.params.get(&self.layers[0][1])?.elem_count())
    }

    /// Computes the mean cross-entropy, of several layers the mean of theirs, and the gradients of all weights and biases. The products run
    /// on the parameters' device.
    pub fn gradients(&self, x: Vec<f32>, labels: &[u32]) -> Result<BatchSums> {
        let (rows, compute) = (labels.len(), self.params.compute());
        let x = Tensor::from_vec(x, (rows, self.dim), compute.device())?;
        let each = (0..self.layers.len()).map(|layer| self.layer_gradients(layer, &x, labels));
        let each = each.collect::<Result<Vec<_>>>()?;
        let losses = each.iter().map(|(loss, _)| loss);
        let gradients: Vec<&Tensor> = each.iter().flat_map(|(_, pair)| pair).collect();
        let flat = layout(&self.params);
        Ok(BatchSums {
            loss: Loss::Number(losses.sum::<f64>() / each.len() as f64),
            gradient: Gradient::of(compute, &flat, &gradients)?,
        })
    }

    /// Computes the mean cross-entropy of a layer and the gradients of its weight and bias.
    pub fn layer_gradients(
        &self,
        layer: usize,
        x: &Tensor,
        labels: &[u32],
    ) -> Result<(f64, [Tensor; 2])> {
        let (rows, compute) = (labels.len(), self.params.compute());
        let mut scores = self.linear(layer, x)?;
        let classes = scores.len() / rows;
        let mut loss = 0.0;
        for (scores, label) in scores.chunks_exact_mut(classes).zip(labels) {
            let (top, total) = normaliser(scores);
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
        let weight = matmul(&scores.t()?, x)?;
        Ok((loss / rows as f64, [weight, bias]))
    }

    fn linear(&self, layer: usize, x: &Tensor) -> Result<Vec<f32>> {
        let [weight, bias] = &self.layers[layer];
        let weight = self.params.get(weight)?.detach();
        let bias = self.params.get(bias)?.detach();
        let scores = matmul(x, &weight.t()?)?.broadcast_add(&bias)?;
        Ok(scores.flatten_all()?.to_vec1()?)
    }

    /// Computes each layer's scores with the running statistics, `[layers][images * classes]`.
    pub fn scores(&self, features: &[f32]) -> Result<Vec<Vec<f32>>> {
        let x = self.normalised(features)?;
        let layers = 0..self.layers.len();
        layers.map(|layer| self.linear(layer, &x)).collect()
    }

    /// Normalises vectors with the running statistics, `[images, dim]`.
    pub fn normalised(&self, features: &[f32]) -> Result<Tensor> {
        let Statistics { mean, variance } = self.running()?;
        let normalised = features.iter().enumerate().map(|(at, v)| {
            let d = at % self.dim;
            (v - mean[d]) / (variance[d] + EPS).sqrt()
        });
        let x: Vec<f32> = normalised.collect();
        let shape = (features.len() / self.dim, self.dim);
        Ok(Tensor::from_vec(x, shape, self.params.compute().device())?)
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
pub(crate) struct Statistics {
    pub mean: Vec<f32>,
    /// Unbiased variance.
    pub variance: Vec<f32>,
}

impl Statistics {
    /// Normalises `x` `[batch, dim]` with the batch's statistics and updates the running ones (with the unbiased variance, as PyTorch).
    /// Returns the factor of each dimension.
    pub fn normalize_batch(&mut self, x: &mut [f32]) -> Vec<f32> {
        let dim = self.mean.len();
        let n = (x.len() / dim) as f64;
        let mean = column_means(x, dim, |_, v| v);
        let variance = column_means(x, dim, |d, v| (v - mean[d]).powi(2));
        let mut scale = Vec::with_capacity(dim);
        for d in 0..dim {
            let unbiased = if n > 1.0 {
                variance[d] * n / (n - 1.0)
            } else {
                variance[d]
            };
            self.mean[d] += MOMENTUM * (mean[d] as f32 - self.mean[d]);
            self.variance[d] += MOMENTUM * (unbiased as f32 - self.variance[d]);
            scale.push(1.0 / (variance[d] as f32 + EPS).sqrt());
        }
        for row in x.chunks_exact_mut(dim) {
            for ((v, mean), scale) in row.iter_mut().zip(&mean).zip(&scale) {
                *v = (*v - *mean as f32) * scale;
            }
        }
        scale
    }
}

/// Returns the mean over the rows of `of(d, value)` for each column `d`.
fn column_means(x: &[f32], dim: usize, of: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; dim];
    for row in x.chunks_exact(dim) {
        for (d, (sum, v)) in sums.iter_mut().zip(row).enumerate() {
            *sum += of(d, f64::from(*v));
        }
    }
    let n = (x.len() / dim) as f64;
    sums.into_iter().map(|sum| sum / n).collect()
}

/// Returns the highest of an image's scores and the sum of `exp(score - highest)`.
pub(crate) fn normaliser(scores: &[f32]) -> (f32, f32) {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (top, scores.iter().map(|s| (s - top).exp()).sum())
}

/// Computes the mean cross-entropy of scores `[images, classes]`.
pub(super) fn cross_entropy(scores: &[f32], classes: usize, labels: &[u32]) -> f64 {
    let losses = scores.chunks_exact(classes).zip(labels);
    let losses = losses.map(|(scores, label)| {
        let (top, total) = normaliser(scores);
        f64::from(total.ln() + top - scores[*label as usize])
    });
    losses.sum::<f64>() / labels.len() as f64
}
