//! Processes one row at a time. The backward recomputes the exponentials.

use crate::ops::bias_gelu::exp;
use crate::simd::{Fused, fused, largest, sum, total};

/// Returns the mean loss; rows have `scores.len() / ids.len()` scores.
pub fn forward(scores: &[f32], ids: &[u32], smoothing: f32) -> f32 {
    let classes = scores.len() / ids.len();
    let mut loss = 0.0_f64;
    fused(
        #[inline(always)]
        |by| {
            for (row, id) in scores.chunks_exact(classes).zip(ids) {
                let log_total = log_sum_exp(by, row);
                let hit = log_total - row[*id as usize];
                let mean = log_total - total(row) / classes as f32;
                loss += f64::from((1.0 - smoothing) * hit + smoothing * mean);
            }
        },
    );
    (loss / ids.len() as f64) as f32
}

/// Returns `upstream / rows * (softmax - q)`.
pub fn backward(scores: &[f32], ids: &[u32], smoothing: f32, upstream: f32) -> Vec<f32> {
    let classes = scores.len() / ids.len();
    let factor = upstream / ids.len() as f32;
    let mut out = vec![0.0; scores.len()];
    fused(
        #[inline(always)]
        |by| {
            let rows = scores
                .chunks_exact(classes)
                .zip(out.chunks_exact_mut(classes));
            for ((row, out), id) in rows.zip(ids) {
                let top = largest(row);
                out.iter_mut()
                    .zip(row)
                    .for_each(|(o, s)| *o = exp(by, s - top));
                let scale = factor / total(out) + 0.0 * top;
                let share = factor * smoothing / classes as f32;
                out.iter_mut().for_each(|o| *o = *o * scale - share);
                out[*id as usize] -= factor * (1.0 - smoothing);
            }
        },
    );
    out
}

#[inline(always)]
fn log_sum_exp(by: Fused, row: &[f32]) -> f32 {
    let top = largest(row);
    top + sum(row.len(), |i| exp(by, row[i] - top)).ln() + 0.0 * top
}
