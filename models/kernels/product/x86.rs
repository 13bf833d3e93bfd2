//! AVX2 and AVX-512 through `pulp`'s safe intrinsics, and AVX-512 BF16.
//!
//! The code uses loops because array methods are separate functions that are compiled for the baseline.

use std::arch::x86_64::{__m512bh, __m512i, _mm_prefetch, _mm512_dpbf16_ps};
use std::mem::transmute;

use pulp::bytemuck::cast;
use pulp::x86::{V3, V4};
use pulp::{Simd, WithSimd};

use super::machine::{Lanes, Machine, Work};

/// Work in the form that `pulp` compiles for an instruction set.
struct Vectorized<W>(W);

impl<W: Work> WithSimd for Vectorized<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.0.work();
    }
}

/// The items of a machine of `pulp` that are the same for all: a lane is a number, and a tile's row has `$count` vectors.
macro_rules! numbers {
    ($count:literal) => {
        type Vectors = Self;
        const COUNT: usize = $count;

        #[inline(always)]
        fn vectors(self) -> Self {
            self
        }

        fn vectorize(self, work: impl Work) {
            Simd::vectorize(self, Vectorized(work));
        }

        #[inline(always)]
        fn add_product(self, x: Lanes<Self>, b: Lanes<Self>, sum: Lanes<Self>) -> Lanes<Self> {
            self.mul_add_f32s(x, b, sum)
        }
    };
}

impl Machine for V4 {
    numbers!(4);

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        let f = self.avx512f;
        let mut rows = [f._mm512_setzero_ps(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = cast(*first::<16>(&from[i * from_stride..]));
        }
        // Interleave pairs of rows, then fours: each register then holds one column of every 4 x 4 block.
        let mut pairs = rows;
        for i in (0..16).step_by(2) {
            pairs[i] = f._mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = f._mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in (0..16).step_by(4) {
            for high in 0..2 {
                let a = f._mm512_castps_pd(pairs[i + high]);
                let b = f._mm512_castps_pd(pairs[i + high + 2]);
                fours[i + 2 * high] = f._mm512_castpd_ps(f._mm512_unpacklo_pd(a, b));
                fours[i + 2 * high + 1] = f._mm512_castpd_ps(f._mm512_unpackhi_pd(a, b));
            }
        }
        // Exchange even and odd blocks of two registers, twice.
        let mut eights = fours;
        for i in [0, 1, 2, 3, 8, 9, 10, 11] {
            eights[i] = f._mm512_shuffle_f32x4::<0x88>(fours[i], fours[i + 4]);
            eights[i + 4] = f._mm512_shuffle_f32x4::<0xdd>(fours[i], fours[i + 4]);
        }
        for i in 0..8 {
            let (a, b) = (eights[i], eights[i + 8]);
            let even: [f32; 16] = cast(f._mm512_shuffle_f32x4::<0x88>(a, b));
            let odd: [f32; 16] = cast(f._mm512_shuffle_f32x4::<0xdd>(a, b));
            to[i * to_stride..][..16].copy_from_slice(&even);
            to[(i + 8) * to_stride..][..16].copy_from_slice(&odd);
        }
    }
}

impl Machine for V3 {
    numbers!(2);

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        let f = self.avx;
        let mut rows = [f._mm256_setzero_ps(); 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = cast(*first::<8>(&from[i * from_stride..]));
        }
        let mut pairs = rows;
        for i in (0..8).step_by(2) {
            pairs[i] = f._mm256_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = f._mm256_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in (0..8).step_by(4) {
            for high in 0..2 {
                let a = f._mm256_castps_pd(pairs[i + high]);
                let b = f._mm256_castps_pd(pairs[i + high + 2]);
                fours[i + 2 * high] = f._mm256_castpd_ps(f._mm256_unpacklo_pd(a, b));
                fours[i + 2 * high + 1] = f._mm256_castpd_ps(f._mm256_unpackhi_pd(a, b));
            }
        }
        for i in 0..4 {
            let (a, b) = (fours[i], fours[i + 4]);
            let low: [f32; 8] = cast(f._mm256_permute2f128_ps::<0x20>(a, b));
            let high: [f32; 8] = cast(f._mm256_permute2f128_ps::<0x31>(a, b));
            to[i * to_stride..][..8].copy_from_slice(&low);
            to[(i + 4) * to_stride..][..8].copy_from_slice(&high);
        }
    }
}

/// AVX-512 with `vdpbf16ps`: a lane of an operand is a pair of bf16, a lane of a sum is f32.
#[derive(Clone, Copy)]
pub(super) struct Pairs(V4);

impl Pairs {
    /// Returns the machine if this one has the instructions.
    pub(super) fn try_new() -> Option<Self> {
        let v4 = V4::try_new().filter(|_| is_x86_feature_detected!("avx512bf16"));
        v4.map(Self)
    }
}

impl Machine for Pairs {
    type Vectors = V4;
    const COUNT: usize = <V4 as Machine>::COUNT;

    #[inline(always)]
    fn vectors(self) -> V4 {
        self.0
    }

    fn vectorize(self, work: impl Work) {
        #[target_feature(enable = "avx2,bmi1,bmi2,fma,lzcnt,popcnt")]
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
        fn with_halves(work: impl Work) {
            work.work();
        }
        #[expect(unsafe_code, reason = "instructions that not every machine has")]
        // SAFETY: `try_new` has found all of them.
        unsafe {
            with_halves(work);
        }
    }

    #[inline(always)]
    fn add_product(self, x: Lanes<Self>, b: Lanes<Self>, sum: Lanes<Self>) -> Lanes<Self> {
        #[expect(unsafe_code, reason = "an instruction that not every machine has")]
        // SAFETY: `try_new` has found it. Both vector types have the same size and no invalid bit pattern.
        unsafe {
            let x = transmute::<__m512i, __m512bh>(cast(x));
            let b = transmute::<__m512i, __m512bh>(cast(b));
            cast(_mm512_dpbf16_ps(cast(sum), x, b))
        }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        self.0.transpose(from, from_stride, to, to_stride);
    }
}

/// Prefetches `count` numbers starting at `at`. The address need not be valid.
#[inline(always)]
pub(super) fn fetch<const HINT: i32>(at: *const f32, count: usize) {
    for line in (0..count).step_by(16) {
        #[expect(unsafe_code, reason = "the hint has no safe form")]
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe {
            _mm_prefetch::<HINT>(at.wrapping_add(line).cast());
        }
    }
}

/// Returns the first `N` numbers as an array.
#[inline(always)]
fn first<const N: usize>(numbers: &[f32]) -> &[f32; N] {
    match numbers.first_chunk() {
        Some(first) => first,
        None => unreachable!("a whole square lies in the operand"),
    }
}
