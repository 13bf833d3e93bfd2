//! BatchNorm without affine parameters and a linear layer on what the readers read, with explicit gradients.

use rand_distr::{Distribution, Normal};
use tessera_kernels::product::{Mat, product};
use tessera_kernels::simd::add;

use super::form::Sizes;
use crate::error::{Error, Result};
use crate::params::ParamStore;
use crate::probe::head::{EPS, MEAN, Statistics, VARIANCE, normaliser};
use crate::rng::keyed_rng;

const WEIGHT: &str = "head.1.weight";
const BIAS: &str = "head.1.bias";

/// Adds the head's parameters: the weight normal 0.01, as in the linear probe.
pub(super) fn add_parameters(params: &mut ParamStore, sizes: Sizes, seed: u64) -> Result<()> {
    let Sizes { width, classes, .. } = sizes;
    let normal = Normal::new(0.0_f32, 0.01).map_err(|e| Error::Config(e.to_string()))?;
    let mut rng = keyed_rng(seed, "init probe", 0, 0);
    let values = (0..classes * width)
        .map(|_| normal.sample(&mut rng))
        .collect();
    params.add(WEIGHT, &[classes, width], values, true)?;
    params.add(BIAS, &[classes], vec![0.0; classes], true)?;
    params.add(MEAN, &[width], vec![0.0; width], false)?;
    params.add(VARIANCE, &[width], vec![1.0; width], false)
}

/// Reads the running statistics.
pub(super) fn running(params: &ParamStore) -> Result<Statistics> {
    let values = |name| -> Result<Vec<f32>> { Ok(params.get(name)?.to_vec1()?) };
    Ok(Statistics {
        mean: values(MEAN)?,
        variance: values(VARIANCE)?,
    })
}

/// Sets the running statistics.
pub(super) fn set_running(params: &ParamStore, running: &Statistics) -> Result<()> {
    params.set(MEAN, running.mean.clone())?;
    params.set(VARIANCE, running.variance.clone())
}

/// Loss and gradients of a batch.
pub(super) struct Back {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Of the head's input, `[batch, width]`.
    pub input: Vec<f32>,
    /// Of the weight and the bias.
    pub layer: [Vec<f32>; 2],
}

/// Computes the loss of `x` `[batch, width]` and its gradients. `running` moves by the batch's statistics.
pub(super) fn gradients(
    params: &ParamStore,
    sizes: Sizes,
    mut x: Vec<f32>,
    labels: &[u32],
    running: &mut Statistics,
) -> Result<Back> {
    let (width, classes, rows) = (sizes.width, sizes.classes, labels.len());
    let scale = running.normalize_batch(&mut x);
    let [weight, bias] = layer(params)?;
    let mut scores = linear(&x, &weight, &bias, width);
    let mut loss = 0.0;
    for (scores, label) in scores.chunks_exact_mut(classes).zip(labels) {
        let (top, total) = normaliser(scores);
        loss += f64::from(total.ln() + top - scores[*label as usize]);
        let share = |s: &mut f32| *s = (*s - top).exp() / total / rows as f32;
        scores.iter_mut().for_each(share);
        scores[*label as usize] -= 1.0 / rows as f32;
    }
    let mut of_bias = vec![0.0; classes];
    scores
        .chunks_exact(classes)
        .for_each(|row| add(&mut of_bias, row));
    let g = Mat::new(&scores, rows, classes);
    let of_weight = product(g.t(), Mat::new(&x, rows, width));
    let mut input = product(g, Mat::new(&weight, classes, width));
    unnormalise(&mut input, &x, &scale);
    Ok(Back {
        loss: loss / rows as f64,
        input,
        layer: [of_weight, of_bias],
    })
}

/// Converts the gradient of a normalised batch `x` into that of the batch, in place.
fn unnormalise(gradient: &mut [f32], x: &[f32], scale: &[f32]) {
    let width = scale.len();
    let rows = (gradient.len() / width) as f32;
    let (mut mean, mut along) = (vec![0.0; width], vec![0.0; width]);
    for (g, x) in gradient.chunks_exact(width).zip(x.chunks_exact(width)) {
        for d in 0..width {
            mean[d] += g[d] / rows;
            along[d] += g[d] * x[d] / rows;
        }
    }
    for (g, x) in gradient.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        for d in 0..width {
            g[d] = scale[d] * (g[d] - mean[d] - x[d] * along[d]);
        }
    }
}

/// Computes scores with the running statistics, `[images, classes]`.
pub(super) fn scores(params: &ParamStore, sizes: Sizes, mut x: Vec<f32>) -> Result<Vec<f32>> {
    let Statistics { mean, variance } = running(params)?;
    for row in x.chunks_exact_mut(sizes.width) {
        for (d, v) in row.iter_mut().enumerate() {
            *v = (*v - mean[d]) / (variance[d] + EPS).sqrt();
        }
    }
    let [weight, bias] = layer(params)?;
    Ok(linear(&x, &weight, &bias, sizes.width))
}

fn layer(params: &ParamStore) -> Result<[Vec<f32>; 2]> {
    let get = |name: &str| -> Result<Vec<f32>> {
        Ok(params.get(name)?.detach().flatten_all()?.to_vec1()?)
    };
    Ok([get(WEIGHT)?, get(BIAS)?])
}

fn linear(x: &[f32], weight: &[f32], bias: &[f32], width: usize) -> Vec<f32> {
    let (rows, classes) = (x.len() / width, bias.len());
    let mut scores = product(
        Mat::new(x, rows, width),
        Mat::new(weight, classes, width).t(),
    );
    scores
        .chunks_exact_mut(classes)
        .for_each(|row| add(row, bias));
    scores
}
