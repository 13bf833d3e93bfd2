//! `vdpbf16ps` of AVX-512 BF16, and what tiles need beside it.
//!
//! The code uses loops because array methods are separate functions that are compiled for the baseline.

use std::arch::x86_64::{__m512bh, __m512i, _mm_prefetch, _mm512_dpbf16_ps};
use std::mem::transmute;

use pulp::Simd;
use pulp::bytemuck::cast;
use pulp::x86::V4;

use super::amx::{INNER, Unit};

/// Numbers in a vector of f32, and pairs of bf16 in one of pairs.
pub(super) const LANES: usize = 16;

/// Rows of a tile. Its sums fill the registers: four vectors a row.
pub(super) const ROWS: usize = 6;

/// Columns of a tile.
pub(super) const WIDTH: usize = 4 * LANES;

/// A vector of pairs or of sums.
pub(super) type Lanes = <V4 as Simd>::f32s;

/// A machine with AVX-512 BF16. A lane of an operand is a pair of bf16, a lane of a sum is f32.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    simd: V4,
    unit: Option<Unit>,
}

impl Pairs {
    /// Returns the machine if this one has the instructions.
    pub(super) fn try_new() -> Option<Self> {
        let v4 = V4::try_new().filter(|_| is_x86_feature_detected!("avx512bf16"));
        v4.map(|simd| Self {
            simd,
            unit: Unit::find(),
        })
    }

    /// The unit for whole tiles, if the machine has one.
    #[inline(always)]
    pub(super) fn unit(self) -> Option<Unit> {
        self.unit
    }

    /// Inner lanes that are multiplied at once.
    #[inline(always)]
    pub(super) fn step(self) -> usize {
        match self.unit {
            Some(_) => INNER,
            None => 1,
        }
    }

    /// The operations on f32.
    #[inline(always)]
    pub(super) fn f32(self) -> V4 {
        self.simd
    }

    /// Runs `work`, compiled for the instruction set. It and all that it calls must be inlined.
    pub(super) fn vectorize(self, work: impl FnMut()) {
        #[target_feature(enable = "avx2,bmi1,bmi2,fma,lzcnt,popcnt")]
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
        fn with_halves(mut work: impl FnMut()) {
            work();
        }
        #[expect(unsafe_code, reason = "instructions that not every machine has")]
        // SAFETY: `try_new` has found all of them.
        unsafe {
            with_halves(work);
        }
    }

    /// Returns `sum + x b` per lane: the product of the upper halves is added first, then that of the lower ones. Subnormal numbers count as
    /// zero.
    #[inline(always)]
    pub(super) fn add_product(self, x: Lanes, b: Lanes, sum: Lanes) -> Lanes {
        #[expect(unsafe_code, reason = "an instruction that not every machine has")]
        // SAFETY: `try_new` has found it. Both vector types have the same size and no invalid bit pattern.
        unsafe {
            let x = transmute::<__m512i, __m512bh>(cast(x));
            let b = transmute::<__m512i, __m512bh>(cast(b));
            cast(_mm512_dpbf16_ps(cast(sum), x, b))
        }
    }

    /// Writes the transpose of a square of [`LANES`] x [`LANES`] lanes. Rows start every `from_stride` lanes of `from`, and every
    /// `to_stride` lanes of `to`.
    #[inline(always)]
    pub(super) fn transpose(
        self,
        from: &[f32],
        from_stride: usize,
        to: &mut [f32],
        to_stride: usize,
    ) {
        let f = self.simd.avx512f;
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
            to[i * to_stride..][..LANES].copy_from_slice(&even);
            to[(i + 8) * to_stride..][..LANES].copy_from_slice(&odd);
        }
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
