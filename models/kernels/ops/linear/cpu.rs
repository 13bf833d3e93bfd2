//! Products that start from the bias. Sizes are `[rows, from, to]`.

use crate::product::{Mat, Start, product, product_from};
use crate::simd::vectorized;

/// Returns `x W^T`.
pub fn forward(x: &[f32], weight: &[f32], [rows, from, to]: [usize; 3]) -> Vec<f32> {
    product(Mat::new(x, rows, from), Mat::new(weight, to, from).t())
}

/// Returns `x W^T + b`.
pub fn forward_bias(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    [rows, from, to]: [usize; 3],
) -> Vec<f32> {
    let weight = Mat::new(weight, to, from).t();
    product_from(Start::Row(bias), Mat::new(x, rows, from), weight)
}

/// Returns `g W`.
pub fn backward_x(grad: &[f32], weight: &[f32], [rows, from, to]: [usize; 3]) -> Vec<f32> {
    product(Mat::new(grad, rows, to), Mat::new(weight, to, from))
}

/// Returns `g^T x`.
pub fn backward_weight(grad: &[f32], x: &[f32], [rows, from, to]: [usize; 3]) -> Vec<f32> {
    product(Mat::new(grad, rows, to).t(), Mat::new(x, rows, from))
}

/// Returns the sum of all rows.
pub fn column_sums(grad: &[f32], cols: usize) -> Vec<f32> {
    let mut sums = vec![0.0; cols];
    vectorized(
        #[inline(always)]
        || {
            for row in grad.chunks_exact(cols) {
                sums.iter_mut().zip(row).for_each(|(s, g)| *s += g);
            }
        },
    );
    sums
}
