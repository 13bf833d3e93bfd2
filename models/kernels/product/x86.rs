//! AVX2 and AVX-512, in `pulp`'s safe forms of their instructions.

use std::array::from_fn;

use pulp::bytemuck::cast;
use pulp::x86::{V3, V4};

use super::tiles::Machine;

impl Machine for V4 {
    const VECTORS: usize = 4;

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        let f = self.avx512f;
        let rows: [[f32; 16]; 16] = from_fn(
            #[inline(always)]
            |i| *first(&from[i * from_stride..]),
        );
        let rows = rows.map(
            #[inline(always)]
            |row| cast(row),
        );
        // Pairs of rows, then of pairs: 4 x 4 blocks, of which each register has one column of four.
        let pairs: [_; 16] = from_fn(
            #[inline(always)]
            |i| match i % 2 {
                0 => f._mm512_unpacklo_ps(rows[i], rows[i + 1]),
                _ => f._mm512_unpackhi_ps(rows[i - 1], rows[i]),
            },
        );
        let fours: [_; 16] = from_fn(
            #[inline(always)]
            |i| {
                let (base, high) = (i / 4 * 4, i % 4 / 2);
                let [a, b] = [0, 2].map(
                    #[inline(always)]
                    |r| f._mm512_castps_pd(pairs[base + high + r]),
                );
                f._mm512_castpd_ps(match i % 2 {
                    0 => f._mm512_unpacklo_pd(a, b),
                    _ => f._mm512_unpackhi_pd(a, b),
                })
            },
        );
        // Then the blocks: even ones and odd ones of two registers, twice.
        let eights: [_; 16] = from_fn(
            #[inline(always)]
            |i| {
                let at = i / 8 * 8 + i % 4;
                match i % 8 / 4 {
                    0 => f._mm512_shuffle_f32x4::<0x88>(fours[at], fours[at + 4]),
                    _ => f._mm512_shuffle_f32x4::<0xdd>(fours[at], fours[at + 4]),
                }
            },
        );
        for i in 0..16 {
            let at = i % 8;
            let column: [f32; 16] = cast(match i / 8 {
                0 => f._mm512_shuffle_f32x4::<0x88>(eights[at], eights[at + 8]),
                _ => f._mm512_shuffle_f32x4::<0xdd>(eights[at], eights[at + 8]),
            });
            to[i * to_stride..][..16].copy_from_slice(&column);
        }
    }
}

impl Machine for V3 {
    const VECTORS: usize = 2;

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        let f = self.avx;
        let rows: [[f32; 8]; 8] = from_fn(
            #[inline(always)]
            |i| *first(&from[i * from_stride..]),
        );
        let rows = rows.map(
            #[inline(always)]
            |row| cast(row),
        );
        let pairs: [_; 8] = from_fn(
            #[inline(always)]
            |i| match i % 2 {
                0 => f._mm256_unpacklo_ps(rows[i], rows[i + 1]),
                _ => f._mm256_unpackhi_ps(rows[i - 1], rows[i]),
            },
        );
        let fours: [_; 8] = from_fn(
            #[inline(always)]
            |i| {
                let (base, high) = (i / 4 * 4, i % 4 / 2);
                let [a, b] = [0, 2].map(
                    #[inline(always)]
                    |r| f._mm256_castps_pd(pairs[base + high + r]),
                );
                f._mm256_castpd_ps(match i % 2 {
                    0 => f._mm256_unpacklo_pd(a, b),
                    _ => f._mm256_unpackhi_pd(a, b),
                })
            },
        );
        for i in 0..8 {
            let at = i % 4;
            let column: [f32; 8] = cast(match i / 4 {
                0 => f._mm256_permute2f128_ps::<0x20>(fours[at], fours[at + 4]),
                _ => f._mm256_permute2f128_ps::<0x31>(fours[at], fours[at + 4]),
            });
            to[i * to_stride..][..8].copy_from_slice(&column);
        }
    }
}

/// The numbers at the beginning, as an array.
#[inline(always)]
fn first<const N: usize>(numbers: &[f32]) -> &[f32; N] {
    match numbers.first_chunk() {
        Some(first) => first,
        None => unreachable!("a whole square lies in the operand"),
    }
}
