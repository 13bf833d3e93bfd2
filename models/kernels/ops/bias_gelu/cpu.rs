//! Branch-free f32 functions that the compiler vectorises.

use crate::simd::vectorized;

/// Returns `gelu(x + b)`, with rows of `bias.len()`.
pub fn forward(x: &[f32], bias: &[f32]) -> Vec<f32> {
    let dim = bias.len();
    let (mut y, mut row) = (Vec::with_capacity(x.len()), vec![0.0; dim]);
    vectorized(
        #[inline(always)]
        || {
            for x in x.chunks_exact(dim) {
                for ((y, x), b) in row.iter_mut().zip(x).zip(bias) {
                    *y = gelu(x + b);
                }
                // `Vec::extend` with a closure would be a function that is compiled for the baseline.
                y.extend_from_slice(&row);
            }
        },
    );
    y
}

/// Returns the gradients of `x` and the bias for the output's gradient `grad`.
pub fn backward(x: &[f32], bias: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut dx = grad.to_vec();
    let db = backward_in_place(x, bias, &mut dx);
    (dx, db)
}

/// Replaces the output's gradient by that of `x`; returns the bias's gradient.
pub fn backward_in_place(x: &[f32], bias: &[f32], grad: &mut [f32]) -> Vec<f32> {
    let dim = bias.len();
    let mut db = vec![0.0; dim];
    vectorized(
        #[inline(always)]
        || {
            for (x, grad) in x.chunks_exact(dim).zip(grad.chunks_exact_mut(dim)) {
                for (((g, db), x), b) in grad.iter_mut().zip(&mut db).zip(x).zip(bias) {
                    *g *= derivative(x + b);
                    *db += *g;
                }
            }
        },
    );
    db
}

/// Returns `exp(x)` for `x <= 0`: range reduction to +-ln 2 / 2 and a polynomial of degree 6, relative error below 2e-7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    // 1.5 * 2^23 has a unit in the last place of 1, so adding it rounds, and the sum's low bits are the integer.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits() - 127);
    p * f32::from_bits(exponent << 23)
}

/// Returns `Phi(x)` and the normal density at `x`, which share an exponential. The absolute error is below 2e-7 (Abramowitz
/// and Stegun 7.1.26 for erfc).
#[inline(always)]
fn phi_and_density(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3;
    let e = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY * e)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * phi_and_density(x).0
}

/// Returns `d gelu / dx = Phi(x) + x phi(x)`.
#[inline(always)]
fn derivative(x: f32) -> f32 {
    let (phi, density) = phi_and_density(x);
    phi + x * density
}
