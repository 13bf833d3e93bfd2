//! One row at a time, in registers and the first cache.

use crate::kernels::simd::{sum, total, vectorized};

/// `(x - mean) / sqrt(var + eps) * weight + bias`, rows of `weight.len()`.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let dim = weight.len();
    let mut y = vec![0.0; x.len()];
    vectorized(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
                let (mean, scale) = moments(x, eps);
                for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * scale * w + b;
                }
            }
        },
    );
    y
}

/// Gradients of x, weight and bias. With `n` the normalised row, `dx = scale (g w - mean(g w) - n mean(g w n))`.
pub fn backward(x: &[f32], weight: &[f32], grad: &[f32], eps: f32) -> [Vec<f32>; 3] {
    let dim = weight.len();
    let [mut dx, mut dw, mut db] = [x.len(), dim, dim].map(|len| vec![0.0; len]);
    let mut normal = vec![0.0; dim];
    vectorized(
        #[inline(always)]
        || {
            let rows = x.chunks_exact(dim).zip(grad.chunks_exact(dim));
            for ((x, grad), dx) in rows.zip(dx.chunks_exact_mut(dim)) {
                let (mean, scale) = moments(x, eps);
                normal
                    .iter_mut()
                    .zip(x)
                    .for_each(|(n, x)| *n = (x - mean) * scale);
                dx.iter_mut()
                    .zip(grad)
                    .zip(weight)
                    .for_each(|((d, g), w)| *d = g * w);
                let center = total(dx) / dim as f32;
                let slope = sum(dim, |i| dx[i] * normal[i]) / dim as f32;
                dx.iter_mut()
                    .zip(&normal)
                    .for_each(|(d, n)| *d = scale * (*d - center - n * slope));
                for ((dw, g), n) in dw.iter_mut().zip(grad).zip(&normal) {
                    *dw += g * n;
                }
                db.iter_mut().zip(grad).for_each(|(db, g)| *db += g);
            }
        },
    );
    [dx, dw, db]
}

/// Mean and `1 / sqrt(var + eps)`, the variance in a second pass.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = total(row) / n;
    let variance = sum(row.len(), |i| (row[i] - mean) * (row[i] - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}
