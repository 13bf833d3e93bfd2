//! Reductions over pairs of numbers in [`WIDE`] partial sums; with fewer, each addition waits for the previous one. The
//! summation order, and therefore every byte, is the same on all machines. The code uses explicit vectors because the compiler
//! keeps arrays of this many sums in memory.

use pulp::{Arch, Simd, WithSimd};

/// Number of partial sums: four AVX-512 registers.
pub const WIDE: usize = 64;

/// Returns `sum(a * b)`.
///
/// # Panics
/// If the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths");
    Arch::new().dispatch(Dot { a, b })
}

/// Returns `sum((a - b)^2)`.
///
/// # Panics
/// If the lengths differ.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths");
    Arch::new().dispatch(Distance { a, b })
}

/// Adds `a` to `sum` and returns `sum(a^2)`.
///
/// # Panics
/// If the lengths differ.
pub fn add_with_square(sum: &mut [f32], a: &[f32]) -> f32 {
    assert_eq!(sum.len(), a.len(), "lengths");
    Arch::new().dispatch(AddWithSquare { sum, a })
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

struct Distance<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

struct AddWithSquare<'a> {
    sum: &'a mut [f32],
    a: &'a [f32],
}

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        over(simd, self.a, self.b, |x, y| simd.mul_f32s(x, y))
    }
}

impl WithSimd for Distance<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        over(simd, self.a, self.b, |x, y| square(simd, x, y))
    }
}

impl WithSimd for AddWithSquare<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (sums, sum_rest) = self.sum.as_chunks_mut::<WIDE>();
        let (a, rest) = self.a.as_chunks::<WIDE>();
        let mut squares = zeros(simd);
        for (sum, a) in sums.iter_mut().zip(a) {
            add(simd, &mut squares, a, a, |x, y| simd.mul_f32s(x, y));
            let (sum, a) = (S::as_mut_simd_f32s(sum).0, S::as_simd_f32s(a).0);
            for (sum, x) in sum.iter_mut().zip(a) {
                *sum = simd.add_f32s(*sum, *x);
            }
        }
        sum_rest.iter_mut().zip(rest).for_each(|(s, x)| *s += x);
        total(simd, squares, rest, rest, |x, y| simd.mul_f32s(x, y))
    }
}

#[inline(always)]
fn square<S: Simd>(simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
    let difference = simd.sub_f32s(x, y);
    simd.mul_f32s(difference, difference)
}

/// [`WIDE`] vectors, enough for one number each. The first `WIDE / S::F32_LANES` are used.
type LaneSums<S> = [<S as Simd>::f32s; WIDE];

#[inline(always)]
fn zeros<S: Simd>(simd: S) -> LaneSums<S> {
    [simd.splat_f32s(0.0); WIDE]
}

#[inline(always)]
fn over<S: Simd>(simd: S, a: &[f32], b: &[f32], f: impl Fn(S::f32s, S::f32s) -> S::f32s) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    let mut sums = zeros(simd);
    for (a, b) in a.iter().zip(b) {
        add(simd, &mut sums, a, b, &f);
    }
    total(simd, sums, a_rest, b_rest, f)
}

#[inline(always)]
fn add<S: Simd>(
    simd: S,
    sums: &mut LaneSums<S>,
    a: &[f32; WIDE],
    b: &[f32; WIDE],
    f: impl Fn(S::f32s, S::f32s) -> S::f32s,
) {
    let (a, b) = (S::as_simd_f32s(a).0, S::as_simd_f32s(b).0);
    for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
        *sum = simd.add_f32s(*sum, f(*x, *y));
    }
}

/// Adds the last, fewer than [`WIDE`] numbers, padded with zeros (`f` maps zeros to zero), and returns the total.
#[inline(always)]
fn total<S: Simd>(
    simd: S,
    mut sums: LaneSums<S>,
    a: &[f32],
    b: &[f32],
    f: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> f32 {
    if !a.is_empty() {
        let mut rest = [[0.0; WIDE]; 2];
        rest[0][..a.len()].copy_from_slice(a);
        rest[1][..b.len()].copy_from_slice(b);
        add(simd, &mut sums, &rest[0], &rest[1], f);
    }
    let mut lanes = [0.0; WIDE];
    let out = S::as_mut_simd_f32s(&mut lanes).0;
    out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = *sum);
    super::total(&lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        let at = |i: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 256.0 - 2.0;
        (0..count).map(at).collect()
    }

    /// Sums one pair after the other, in the documented order.
    fn plainly(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; WIDE];
        for (at, (x, y)) in a.iter().zip(b).enumerate() {
            lanes[at % WIDE] += f(*x, *y);
        }
        crate::simd::total(&lanes)
    }

    #[test]
    fn bytes_follow_the_documented_order_at_any_length() {
        for n in [0, 1, 15, 16, 63, 64, 65, 127, 768, 1030] {
            let (a, b) = (numbers(n, 1), numbers(n, 2));
            let product = plainly(&a, &b, |x, y| x * y);
            assert_eq!(dot(&a, &b).to_bits(), product.to_bits(), "dot of {n}");
            let distance = plainly(&a, &b, |x, y| (x - y) * (x - y));
            assert_eq!(
                squared_distance(&a, &b).to_bits(),
                distance.to_bits(),
                "{n}"
            );
            let mut sum = numbers(n, 3);
            let expected: Vec<f32> = sum.iter().zip(&a).map(|(s, x)| s + x).collect();
            let square = plainly(&a, &a, |x, y| x * y);
            assert_eq!(add_with_square(&mut sum, &a).to_bits(), square.to_bits());
            assert_eq!(sum, expected, "{n}");
        }
    }

    #[test]
    #[should_panic(expected = "lengths")]
    fn different_lengths_are_refused() {
        dot(&[0.0; 3], &[0.0; 4]);
    }
}
