//! Norms are sums over fixed pieces, added in order, so the bytes do not depend on the number of threads.

use rayon::prelude::*;

use crate::simd::{sum, vectorized};

/// Parameters of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub lr: f32,
    /// Weight decay, applied only with `trust`.
    pub weight_decay: f32,
    /// Momentum.
    pub momentum: f32,
    /// Trust coefficient, for matrices; `None` applies the plain gradient.
    pub trust: Option<f32>,
}

/// Elements per task.
const PIECE: usize = 1 << 14;

/// Updates `values` and `moment` in place.
pub fn step(values: &mut [f32], grad: &[f32], moment: &mut [f32], step: Step) {
    let (factor, decay) = match step.trust {
        Some(trust) => (
            ratio(values, grad, trust, step.weight_decay),
            step.weight_decay,
        ),
        None => (1.0, 0.0),
    };
    let pieces = (values.par_chunks_mut(PIECE), grad.par_chunks(PIECE));
    (pieces, moment.par_chunks_mut(PIECE))
        .into_par_iter()
        .for_each(|((values, grad), moment)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((value, g), m) in values.iter_mut().zip(grad).zip(moment.iter_mut()) {
                        *m = step.momentum * *m + (g + decay * *value) * factor;
                        *value -= step.lr * *m;
                    }
                },
            );
        });
}

/// Returns `trust |x| / |g + decay x|`, or 1 if either norm is zero.
fn ratio(values: &[f32], grad: &[f32], trust: f32, decay: f32) -> f32 {
    let parts = (values.par_chunks(PIECE), grad.par_chunks(PIECE)).into_par_iter();
    let parts: Vec<[f64; 2]> = parts
        .map(|(values, grad)| {
            vectorized(
                #[inline(always)]
                || {
                    let size = sum(values.len(), |i| values[i] * values[i]);
                    let update = |i: usize| grad[i] + decay * values[i];
                    let update = sum(values.len(), |i| update(i) * update(i));
                    [f64::from(size), f64::from(update)]
                },
            )
        })
        .collect();
    let norm = |which: usize| parts.iter().map(|p| p[which]).sum::<f64>().sqrt();
    match (norm(0), norm(1)) {
        (size, update) if size > 0.0 && update > 0.0 => (f64::from(trust) * size / update) as f32,
        _ => 1.0,
    }
}
