//! Plain loops as vector code of this machine: compiled once per instruction set, chosen at run time, so that a binary
//! built on one machine runs on an older one.
//!
//! What is called within must be `#[inline(always)]` to be compiled along, the closure itself too:
//! `vectorized(#[inline(always)] || ...)`. Without it the compiler may keep one baseline copy of the closure and call
//! that for every instruction set, which is right but slow. Sums go over a fixed number of lanes, so their order, and
//! with it every byte, is the same for any number of threads.

pub mod bytes;
pub mod pairs;

/// Partial sums of a reduction: one AVX-512 register of f32.
pub const LANES: usize = 16;

/// Runs `work`, once, as compiled for the widest vectors this machine has.
#[inline]
pub fn vectorized<R>(work: impl FnMut() -> R) -> R {
    pulp::Arch::new().dispatch(Work(work))
}

/// Called through `FnMut`: an `FnOnce` call of a closure that borrows goes through a shim, which is compiled for the
/// baseline and need not be inlined.
struct Work<F>(F);

impl<R, F: FnMut() -> R> pulp::WithSimd for Work<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

/// `to += from`, number by number; both of one length.
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

/// `sum(f(i))` over `0..n`, [`LANES`] partial sums.
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

/// The sum of `values`.
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

/// `sum(a * b)`; both of one length.
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

/// The largest of `values`, which is NaN when one is; negative infinity when there are none.
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    // One instruction per vector, which drops a NaN in `b`. NaNs are looked for beside, as the largest of numbers' bits.
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

/// `sum((v - center)^2)`.
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
    fn reductions_are_the_plain_ones_at_any_length() {
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
    fn a_nan_anywhere_is_the_largest() {
        for at in [0, 15, 16, 40] {
            let mut values = vec![1.0; 41];
            values[at] = f32::NAN;
            assert!(largest(&values).is_nan(), "{at}");
        }
    }
}
