//! Copies whole runs of `patch` pixels if the order allows it.

use crate::simd::{sum, total, vectorized};

/// Order of the numbers in a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// (channel, row, column), as in the patch projection's weight.
    ChannelFirst,
    /// (row, column, channel), as in MAE's targets.
    ChannelLast,
}

/// Epsilon inside the square root, as in MAE's `norm_pix_loss`.
const EPS: f32 = 1e-6;

/// Iterates over the starts of a patch's pixel runs, channel by channel, row by row.
fn runs(side: usize, patch: usize, row: u32) -> impl Iterator<Item = usize> {
    let grid = side / patch;
    let (image, at) = (row as usize / (grid * grid), row as usize % (grid * grid));
    let corner = image * 3 * side * side + at / grid * patch * side + at % grid * patch;
    let lines = move |channel: usize| (0..patch).map(move |line| (channel, line));
    (0..3)
        .flat_map(lines)
        .map(move |(c, line)| corner + (c * side + line) * side)
}

/// Returns patches `keep` of images `[batch, 3, side, side]` as (channel, row, column).
pub fn gather(images: &[f32], side: usize, patch: usize, keep: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(keep.len() * 3 * patch * patch);
    for row in keep {
        runs(side, patch, *row).for_each(|at| out.extend_from_slice(&images[at..at + patch]));
    }
    out
}

/// Returns images of zeros with `grad` in the patches `keep`.
pub fn scatter(grad: &[f32], batch: usize, side: usize, patch: usize, keep: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; batch * 3 * side * side];
    for (row, grad) in keep.iter().zip(grad.chunks_exact(3 * patch * patch)) {
        for (at, line) in runs(side, patch, *row).zip(grad.chunks_exact(patch)) {
            out[at..at + patch].copy_from_slice(line);
        }
    }
    out
}

/// Returns all patches of images `[batch, 3, side, side]` in row-major order of the grid: `[batch, num_patches, 3 * patch * patch]`.
pub fn split(images: &[f32], side: usize, patch: usize, order: Order) -> Vec<f32> {
    let rows = images.len() / (3 * patch * patch);
    if order == Order::ChannelFirst {
        let all: Vec<u32> = (0..rows as u32).collect();
        return gather(images, side, patch, &all);
    }
    let mut out = vec![0.0; images.len()];
    vectorized(
        #[inline(always)]
        || {
            for (row, out) in out.chunks_exact_mut(3 * patch * patch).enumerate() {
                for (run, at) in runs(side, patch, row as u32).enumerate() {
                    let (channel, line) = (run / patch, run % patch);
                    let out = &mut out[line * patch * 3..(line + 1) * patch * 3];
                    for (pixel, value) in out.chunks_exact_mut(3).zip(&images[at..at + patch]) {
                        pixel[channel] = *value;
                    }
                }
            }
        },
    );
    out
}

/// Normalises each row of `dim` numbers to mean 0 and unbiased variance 1 (MAE `models_mae.py::forward_loss`).
pub fn normalize(rows: &mut [f32], dim: usize) {
    vectorized(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(dim) {
                let mean = total(row) / dim as f32;
                row.iter_mut().for_each(|v| *v -= mean);
                let variance = sum(dim, |i| row[i] * row[i]) / (dim as f32 - 1.0);
                let scale = 1.0 / (variance + EPS).sqrt();
                row.iter_mut().for_each(|v| *v *= scale);
            }
        },
    );
}
