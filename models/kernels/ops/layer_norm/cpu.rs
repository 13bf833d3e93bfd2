//! Processes one row at a time, in registers and the L1 cache.

use crate::product::{Operand, Rounding, Rows};
use crate::simd::{dot, squares_about, total, vectorized};

/// Returns `(x - mean) / sqrt(var + eps) * weight + bias`, with rows of `weight.len()`, prepared for products.
pub fn forward(
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    eps: f32,
    rounding: Rounding,
) -> Operand<'static> {
    let dim = weight.len();
    let mut y = Rows::new([x.len() / dim, dim], rounding);
    let mut row = vec![0.0; dim];
    vectorized(
        #[inline(always)]
        || {
            for x in x.chunks_exact(dim) {
                let (mean, scale) = moments(x, eps);
                for (((y, x), w), b) in row.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * scale * w + b;
                }
                y.push(&row);
            }
        },
    );
    y.operand()
}

/// Returns the gradients of `x`, weight and bias.
pub fn backward(x: &[f32], weight: &[f32], grad: &[f32], eps: f32) -> [Vec<f32>; 3] {
    let mut dx = vec![0.0; x.len()];
    let [dw, db] = backward_add(x, weight, grad, eps, &mut dx);
    [dx, dw, db]
}

/// Adds the gradient of `x` to `dx` and returns those of weight and bias. With the normalised row `n`,
/// `dx = scale (g w - mean(g w) - n mean(g w n))`.
pub fn backward_add(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    eps: f32,
    dx: &mut [f32],
) -> [Vec<f32>; 2] {
    let dim = weight.len();
    let [mut dw, mut db, mut normal, mut weighted] = [(); 4].map(|()| vec![0.0; dim]);
    vectorized(
        #[inline(always)]
        || {
            let rows = x.chunks_exact(dim).zip(grad.chunks_exact(dim));
            for ((x, grad), dx) in rows.zip(dx.chunks_exact_mut(dim)) {
                let (mean, scale) = moments(x, eps);
                for (n, x) in normal.iter_mut().zip(x) {
                    *n = (x - mean) * scale;
                }
                for ((d, g), w) in weighted.iter_mut().zip(grad).zip(weight) {
                    *d = g * w;
                }
                let center = total(&weighted) / dim as f32;
                let slope = dot(&weighted, &normal) / dim as f32;
                for ((dx, d), n) in dx.iter_mut().zip(&weighted).zip(&normal) {
                    *dx += scale * (d - center - n * slope);
                }
                for ((dw, g), n) in dw.iter_mut().zip(grad).zip(&normal) {
                    *dw += g * n;
                }
                for (db, g) in db.iter_mut().zip(grad) {
                    *db += g;
                }
            }
        },
    );
    [dw, db]
}

/// Returns mean and `1 / sqrt(var + eps)`, with the variance from a second pass.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = total(row) / n;
    let variance = squares_about(row, mean) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}
