//! Compiles plain loops once per instruction set and chooses one at run time, so a binary runs on older machines too.
//!
//! Every function called inside, and the closure, must be `#[inline(always)]`: `vectorized(#[inline(always)] || ...)`.
//! Otherwise the compiler may emit one baseline copy and call it for every instruction set, which is correct but slow.
//! Reductions use a fixed number of partial sums. The summation order, and therefore every byte, does not depend on
//! threads.

pub mod bytes;
pub mod halves;
pub mod pairs;

/// Number of partial sums of a reduction: one AVX-512 register of f32.
pub const LANES: usize = 16;

/// Runs `work` once, compiled for the widest vectors of this machine.
#[inline]
pub fn vectorized<R>(mut work: impl FnMut() -> R) -> R {
    fused(
        #[inline(always)]
        |_| work(),
    )
}

/// Runs `work` as [`vectorized`] does, with this machine's way to multiply and add.
#[inline]
pub fn fused<R>(work: impl FnMut(Fused) -> R) -> R {
    pulp::Arch::new().dispatch(Work(work))
}

/// How a function multiplies and adds: in one rounding where the instruction set has an instruction for it, else in two, because a call of the
/// C library for each number would be slow.
#[derive(Clone, Copy, Debug)]
pub struct Fused(bool);

impl Fused {
    /// Two roundings.
    #[cfg(test)]
    pub(crate) const SEPARATE: Self = Self(false);

    /// Returns `a b + c`.
    #[inline(always)]
    pub fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        match self.0 {
            true => a.mul_add(b, c),
            false => a * b + c,
        }
    }
}

/// Runs an `FnMut`. An `FnOnce` call of a borrowing closure goes through a shim, which is compiled for the baseline and
/// may not be inlined.
struct Work<F>(F);

impl<R, F: FnMut(Fused) -> R> pulp::WithSimd for Work<F> {
    type Output = R;

    // Every vector instruction set of `pulp` has fused multiply-adds, so the compiler knows the answer here.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
        (self.0)(Fused(!S::IS_SCALAR))
    }
}

/// Adds `from` to `to` element by element. Both have the same length.
pub fn add(to: &mut [f32], from: &[f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        },
    );
}

/// Returns `sum(f(i))` over `0..n`, in [`LANES`] partial sums.
#[inline(always)]
pub fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += f(start + lane);
        }
    }
    for at in whole..n {
        lanes[at - whole] += f(at);
    }
    fold(lanes)
}

/// Returns the sum of `values`.
#[inline(always)]
pub fn total(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(l, v)| *l += v);
    }
    lanes.iter_mut().zip(rest).for_each(|(l, v)| *l += v);
    fold(lanes)
}

/// Returns `sum(a * b)`. Both have the same length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    fold(lanes)
}

/// Returns the maximum of `values`: NaN if any value is NaN, negative infinity if `values` is empty.
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    // The comparison is one vector instruction but ignores a NaN in `b`. The maximum of the bits without sign detects NaNs.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let without_sign = |v: f32| v.to_bits() & !(1 << 31);
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (mut lanes, mut bits) = ([f32::NEG_INFINITY; LANES], [0_u32; LANES]);
    for chunk in chunks {
        for ((lane, bits), v) in lanes.iter_mut().zip(&mut bits).zip(chunk) {
            *lane = larger(*lane, *v);
            *bits = (*bits).max(without_sign(*v));
        }
    }
    for ((lane, bits), v) in lanes.iter_mut().zip(&mut bits).zip(rest) {
        *lane = larger(*lane, *v);
        *bits = (*bits).max(without_sign(*v));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = larger(lanes[lane], lanes[lane + width]);
            bits[lane] = bits[lane].max(bits[lane + width]);
        }
        width /= 2;
    }
    match bits[0] > f32::INFINITY.to_bits() {
        true => f32::NAN,
        false => lanes[0],
    }
}

/// Returns `sum((v - center)^2)`.
#[inline(always)]
pub fn squares_about(values: &[f32], center: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += (v - center) * (v - center);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += (v - center) * (v - center);
    }
    fold(lanes)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_equal_plain_sums_at_any_length() {
        for n in [0, 1, 15, 16, 17, 33, 1030] {
            let a: Vec<f32> = (0..n)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0)
                .collect();
            let b: Vec<f32> = (0..n)
                .map(|i| ((i * 53 % 97) as f32 - 40.0) / 4.0)
                .collect();
            let exact: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert_eq!(vectorized(|| dot(&a, &b)), exact, "dot of {n}");
            assert_eq!(vectorized(|| sum(n, |i| a[i] * b[i])), exact, "sum of {n}");
            assert_eq!(
                vectorized(|| total(&a)),
                a.iter().sum::<f32>(),
                "total of {n}"
            );
            let squares: f32 = a.iter().map(|a| (a - 0.5) * (a - 0.5)).sum();
            assert_eq!(
                vectorized(|| squares_about(&a, 0.5)),
                squares,
                "squares of {n}"
            );
            let top = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(vectorized(|| largest(&a)), top, "largest of {n}");
        }
    }

    #[test]
    fn a_nan_anywhere_makes_the_maximum_nan() {
        for at in [0, 15, 16, 40] {
            let mut values = vec![1.0; 41];
            values[at] = f32::NAN;
            assert!(largest(&values).is_nan(), "{at}");
        }
    }
}
