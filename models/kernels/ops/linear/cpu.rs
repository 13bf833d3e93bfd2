//! Products that start from the bias, in the numbers of their factors.

use crate::product::{Form, Operand, Rounding, Start, product_of};

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

/// Returns `grad`, prepared for products, and the sum of its rows.
pub fn with_sums(grad: &[f32], cols: usize, rounding: Rounding) -> (Operand<'_>, Vec<f32>) {
    let mut sums = vec![0.0; cols];
    let grad = Operand::seen(
        grad,
        cols,
        rounding,
        #[inline(always)]
        |row| sums.iter_mut().zip(row).for_each(|(s, g)| *s += g),
    );
    (grad, sums)
}
