//! Branch-free f32 functions that the compiler vectorises.

use crate::product::{Operand, Rounding, Rows};
use crate::simd::{Fused, fused};

/// Returns `gelu(x + b)`, with rows of `bias.len()`, prepared for products.
pub fn forward(x: &[f32], bias: &[f32], rounding: Rounding) -> Operand<'static> {
    let dim = bias.len();
    let mut y = Rows::new([x.len() / dim, dim], rounding);
    let mut row = vec![0.0; dim];
    fused(
        #[inline(always)]
        |by| {
            for x in x.chunks_exact(dim) {
                for ((y, x), b) in row.iter_mut().zip(x).zip(bias) {
                    *y = gelu(by, x + b);
                }
                y.push(&row);
            }
        },
    );
    y.operand()
}

/// Replaces the output's gradient `grad` by that of `x`. Returns it, prepared for products, and the bias's gradient.
pub fn backward<'g>(
    x: &[f32],
    bias: &[f32],
    grad: &'g mut [f32],
    rounding: Rounding,
) -> (Operand<'g>, Vec<f32>) {
    let dim = bias.len();
    let mut db = vec![0.0; dim];
    let dx = Operand::changed(
        grad,
        dim,
        rounding,
        #[inline(always)]
        |by, at, grad| {
            let x = &x[at * dim..][..dim];
            for (((g, db), x), b) in grad.iter_mut().zip(&mut db).zip(x).zip(bias) {
                *g *= derivative(by, x + b);
                *db += *g;
            }
        },
    );
    (dx, db)
}

/// Returns `exp(x)` for `x <= 0`: range reduction to +-ln 2 / 2 and a polynomial of degree 6, relative error below 2.5e-7.
#[inline(always)]
pub fn exp(by: Fused, x: f32) -> f32 {
    let x = x.max(-87.0);
    // 1.5 * 2^23 has a unit in the last place of 1, so adding it rounds, and the sum's low bits are the integer.
    const ROUND: f32 = 12_582_912.0;
    let rounded = by.mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = by.mul_add(n, 2.121_944_4e-4, by.mul_add(n, -0.693_359_4, x));
    let p = by.mul_add(1.0 / 720.0, r, 1.0 / 120.0);
    let p = by.mul_add(p, r, 1.0 / 24.0);
    let p = by.mul_add(p, r, 1.0 / 6.0);
    let p = by.mul_add(p, r, 0.5);
    let p = by.mul_add(p, r, 1.0);
    let p = by.mul_add(p, r, 1.0);
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits() - 127);
    p * f32::from_bits(exponent << 23)
}

/// Returns `Phi(x)` and the normal density at `x`, which share an exponential. The absolute error is below 2e-7 (Abramowitz
/// and Stegun 7.1.26 for erfc).
#[inline(always)]
fn phi_and_density(by: Fused, x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3;
    const SCALE: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    let e = exp(by, -0.5 * x * x);
    let t = 1.0 / by.mul_add(SCALE, x.abs(), 1.0);
    let p = by.mul_add(1.061_405_4, t, -1.453_152_1);
    let p = by.mul_add(p, t, 1.421_413_8);
    let p = by.mul_add(p, t, -0.284_496_72);
    let p = by.mul_add(p, t, 0.254_829_6);
    let tail = 0.5 * p * t * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY * e)
}

#[inline(always)]
fn gelu(by: Fused, x: f32) -> f32 {
    x * phi_and_density(by, x).0
}

/// Returns `d gelu / dx = Phi(x) + x phi(x)`.
#[inline(always)]
fn derivative(by: Fused, x: f32) -> f32 {
    let (phi, density) = phi_and_density(by, x);
    by.mul_add(x, density, phi)
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    /// The error bounds of the documentation, with fused multiply-adds and without.
    #[test]
    fn both_ways_to_multiply_and_add_are_accurate() {
        let numbers = || (0..9000_u16).map(|at| f32::from(at) * 1e-3);
        let largest = |errors: &mut dyn Iterator<Item = f64>| errors.fold(0.0, f64::max);
        let errors = |by| {
            let mut of_exp = numbers().map(|x| {
                let exact = f64::from(-9.0 * x).exp();
                (f64::from(exp(by, -9.0 * x)) / exact - 1.0).abs()
            });
            let mut of_gelu = numbers().flat_map(|x| [x, -x]).map(|x| {
                let error = f64::from(gelu(by, x)) - reference::gelu(f64::from(x));
                error.abs() / f64::from(x).abs().max(1.0)
            });
            [largest(&mut of_exp), largest(&mut of_gelu)]
        };
        for [of_exp, of_gelu] in [fused(errors), errors(Fused::SEPARATE)] {
            assert!(of_exp < 2.5e-7 && of_gelu < 2e-7, "{of_exp} {of_gelu}");
        }
    }
}
