//! One row at a time, in registers and the first cache.

/// Sums in eight lanes: vector code with a fixed order.
#[inline]
pub fn sum(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (at, value) in values.enumerate() {
        lanes[at % 8] += value;
    }
    lanes.iter().sum()
}

/// Mean 0 and variance 1 in place; returns `1 / sqrt(var + eps)`.
#[inline]
pub fn normalize(row: &mut [f32], eps: f32) -> f32 {
    let n = row.len() as f32;
    let mean = sum(row.iter().copied()) / n;
    row.iter_mut().for_each(|v| *v -= mean);
    let variance = sum(row.iter().map(|v| v * v)) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    row.iter_mut().for_each(|v| *v *= scale);
    scale
}

/// `dx = scale (g w - mean(g w) - n mean(g w n))`, `n` the normalised row.
#[inline]
pub fn backward_row(normal: &[f32], scale: f32, weight: &[f32], grad: &[f32], dx: &mut [f32]) {
    let n = normal.len() as f32;
    dx.iter_mut()
        .zip(grad)
        .zip(weight)
        .for_each(|((d, g), w)| *d = g * w);
    let mean = sum(dx.iter().copied()) / n;
    let slope = sum(dx.iter().zip(normal).map(|(d, x)| d * x)) / n;
    dx.iter_mut()
        .zip(normal)
        .for_each(|(d, x)| *d = scale * (*d - mean - x * slope));
}
