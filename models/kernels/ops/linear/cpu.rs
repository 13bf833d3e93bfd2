//! Products that start from the bias, in the numbers of their factors.

use crate::product::{Form, Operand, Start, product_of};
use crate::simd::vectorized;

/// Returns `start + x W^T`.
pub fn forward(x: &Operand<'_>, weight: &Operand<'_>, start: Start<'_>) -> Vec<f32> {
    product_of(Form::RightTransposed, start, x.factor(), weight.factor())
}

/// Returns `g W`.
pub fn backward_x(grad: &Operand<'_>, weight: &Operand<'_>) -> Vec<f32> {
    product_of(Form::Plain, Start::Zero, grad.factor(), weight.factor())
}

/// Returns `g^T x`.
pub fn backward_weight(grad: &Operand<'_>, x: &Operand<'_>) -> Vec<f32> {
    product_of(Form::LeftTransposed, Start::Zero, grad.factor(), x.factor())
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
