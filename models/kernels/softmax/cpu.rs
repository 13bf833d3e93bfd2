//! One row in place.

use crate::kernels::gelu::exp;

/// `softmax(scale * row)`; the maximum is taken out first.
#[inline]
pub fn forward_row(row: &mut [f32], scale: f32) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // A NaN must come out as one, so that a diverged loss is seen.
    let top = if row.iter().any(|v| v.is_nan()) {
        f32::NAN
    } else {
        top
    };
    row.iter_mut().for_each(|v| *v = exp((*v - top) * scale));
    let mut lanes = [0.0_f32; 8];
    row.iter()
        .enumerate()
        .for_each(|(at, v)| lanes[at % 8] += v);
    let sum = 1.0 / lanes.iter().sum::<f32>() + 0.0 * top;
    row.iter_mut().for_each(|v| *v *= sum);
}

/// `dx = scale y (g - sum(g y))`, in place of `g`.
#[inline]
pub fn backward_row(y: &[f32], grad: &mut [f32], scale: f32) {
    let mut lanes = [0.0_f32; 8];
    y.iter()
        .zip(grad.iter())
        .enumerate()
        .for_each(|(at, (y, g))| lanes[at % 8] += y * g);
    let dot: f32 = lanes.iter().sum();
    grad.iter_mut()
        .zip(y)
        .for_each(|(g, y)| *g = scale * y * (*g - dot));
}
