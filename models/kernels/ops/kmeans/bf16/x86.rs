//! The products with AVX-512 intrinsics.

#![expect(
    unsafe_code,
    reason = "loads and stores by address, and transmutes between vector types"
)]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::packed::{CHUNK, Centers, LANES, ROWS, Tile, Tops, blocks};

/// Implements `Centers::pack`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn pack(centers: &Centers, rows: &[f32], tile: &mut Tile) {
    for group in 0..ROWS / LANES {
        let mut squares = _mm512_setzero_ps();
        for (chunk, shift) in centers.shift.as_chunks::<CHUNK>().0.iter().enumerate() {
            let pairs = transposed(chunk_of(rows, centers.dim, shift, [group, chunk]));
            let out = tile.packed.as_chunks_mut::<ROWS>().0;
            for (pairs, out) in pairs.into_iter().zip(&mut out[chunk * LANES..]) {
                let out = &mut out.as_chunks_mut::<LANES>().0[group];
                // SAFETY: both types have the same size and no invalid bit pattern; `out` has a vector's length.
                unsafe {
                    let pairs: __m512bh = transmute(pairs);
                    squares = _mm512_dpbf16_ps(squares, pairs, pairs);
                    _mm512_storeu_si512(
                        out.as_mut_ptr().cast(),
                        transmute::<__m512bh, __m512i>(pairs),
                    );
                }
            }
        }
        let out = &mut tile.squares.as_chunks_mut::<LANES>().0[group];
        // SAFETY: `out` has a vector's length.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), squares) };
    }
}

/// Returns a chunk of dimensions of a group of rows, minus `shift`, as pairs of bf16, one vector per row.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn chunk_of(
    rows: &[f32],
    dim: usize,
    shift: &[f32; CHUNK],
    [group, chunk]: [usize; 2],
) -> [__m512i; LANES] {
    let count = CHUNK.min(dim - chunk * CHUNK);
    let masks = [count.min(LANES), count.saturating_sub(LANES)].map(|n| ((1_u32 << n) - 1) as u16);
    let (shift, _) = shift.as_chunks::<LANES>();
    // SAFETY: each half has a vector's length.
    let shift = unsafe { [0, 1].map(|half: usize| _mm512_loadu_ps(shift[half].as_ptr())) };
    let mut all = [_mm512_setzero_si512(); LANES];
    for (lane, pairs) in all.iter_mut().enumerate() {
        let start = (group * LANES + lane) * dim + chunk * CHUNK;
        let Some(row) = rows.get(start..start + count) else {
            break;
        };
        // SAFETY: the masks restrict the loads to `row`; both types have the same size and no invalid bit pattern.
        unsafe {
            let low = _mm512_maskz_loadu_ps(masks[0], row.as_ptr());
            let high = _mm512_maskz_loadu_ps(masks[1], row.as_ptr().wrapping_add(LANES));
            let [low, high] = [_mm512_sub_ps(low, shift[0]), _mm512_sub_ps(high, shift[1])];
            *pairs = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        }
    }
    all
}

/// Transposes a square of 32-bit numbers.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let zero = [_mm512_setzero_si512(); LANES];
    // Interleave pairs of rows, then fours: quarter q of a vector then holds one of the columns 4 q + 0..4 q + 3 of four rows.
    let (mut twos, mut fours) = (zero, zero);
    for at in (0..LANES).step_by(2) {
        twos[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        twos[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    for at in (0..LANES).step_by(4) {
        fours[at] = _mm512_unpacklo_epi64(twos[at], twos[at + 2]);
        fours[at + 1] = _mm512_unpackhi_epi64(twos[at], twos[at + 2]);
        fours[at + 2] = _mm512_unpacklo_epi64(twos[at + 1], twos[at + 3]);
        fours[at + 3] = _mm512_unpackhi_epi64(twos[at + 1], twos[at + 3]);
    }
    // Combine quarters 0 and 2, or 1 and 3, of two vectors, twice.
    let mut columns = zero;
    for at in 0..4 {
        let even = [0, 8].map(|i| _mm512_shuffle_i32x4::<0x88>(fours[i + at], fours[i + 4 + at]));
        let odd = [0, 8].map(|i| _mm512_shuffle_i32x4::<0xdd>(fours[i + at], fours[i + 4 + at]));
        columns[at] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        columns[4 + at] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        columns[8 + at] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        columns[12 + at] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}

/// Implements `Centers::scores`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn scores(
    centers: &Centers,
    tile: &Tile,
    bias: &[f32],
    mut ahead: &[f32],
    mut out: &mut [f32],
    tops: &mut Tops,
) {
    let pairs = centers.shift.len() / 2;
    let (runs, mut packed) = (blocks(centers.k), &centers.packed[..]);
    let fetched = ahead.len().div_ceil(runs.len());
    for (first, count) in runs {
        let (block, now, scores);
        (block, packed) = packed.split_at(pairs * count);
        (now, ahead) = ahead.split_at(fetched.min(ahead.len()));
        (scores, out) = out.split_at_mut(count * ROWS);
        let of = match count {
            1 => of::<1>,
            2 => of::<2>,
            3 => of::<3>,
            4 => of::<4>,
            5 => of::<5>,
            6 => of::<6>,
            7 => of::<7>,
            8 => of::<8>,
            _ => of::<9>,
        };
        of(
            block,
            &tile.packed,
            now,
            &bias[first..first + count],
            scores,
        );
        compare(first, scores, tops);
    }
}

/// Computes the scores of a tile and a block of `C` centres, and prefetches a cache line of `ahead` per step.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn of<const C: usize>(block: &[u32], tile: &[u32], ahead: &[f32], bias: &[f32], out: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); ROWS / LANES]; C];
    let (block, tile) = (block.as_chunks::<C>().0, tile.as_chunks::<ROWS>().0);
    let mut lines = ahead.chunks(LANES);
    for (centers, rows) in block.iter().zip(tile) {
        if let Some(line) = lines.next() {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        let rows = rows.as_chunks::<LANES>().0;
        // SAFETY: each group has a vector's length; both types have the same size and no invalid bit pattern.
        let rows: [__m512bh; ROWS / LANES] = unsafe {
            [0, 1, 2].map(|group: usize| transmute(_mm512_loadu_si512(rows[group].as_ptr().cast())))
        };
        for (sums, center) in sums.iter_mut().zip(centers) {
            // SAFETY: as above.
            let center: __m512bh = unsafe { transmute(_mm512_set1_epi32(center.cast_signed())) };
            for (sum, rows) in sums.iter_mut().zip(rows) {
                *sum = _mm512_dpbf16_ps(*sum, rows, center);
            }
        }
    }
    let out = out.as_chunks_mut::<ROWS>().0.iter_mut();
    for (out, (sums, bias)) in out.zip(sums.into_iter().zip(bias)) {
        for (out, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            let score = _mm512_add_ps(sum, _mm512_set1_ps(*bias));
            // SAFETY: `out` has a vector's length.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), score) };
        }
    }
}

/// Merges the scores of centres, starting at `first`. Comparisons with NaN are false, and the maximum then returns its second operand.
#[target_feature(enable = "avx512f")]
fn compare(first: usize, scores: &[f32], tops: &mut Tops) {
    for group in 0..ROWS / LANES {
        let best = &mut tops.best.as_chunks_mut::<LANES>().0[group];
        let second = &mut tops.second.as_chunks_mut::<LANES>().0[group];
        let ids = &mut tops.ids.as_chunks_mut::<LANES>().0[group];
        // SAFETY: each slice has a vector's length, here and below.
        let (mut top, mut next, mut id) = unsafe {
            (
                _mm512_loadu_ps(best.as_ptr()),
                _mm512_loadu_ps(second.as_ptr()),
                _mm512_loadu_si512(ids.as_ptr().cast()),
            )
        };
        for (center, scores) in (first..).zip(scores.as_chunks::<ROWS>().0) {
            let scores = &scores.as_chunks::<LANES>().0[group];
            // SAFETY: as above.
            let score = unsafe { _mm512_loadu_ps(scores.as_ptr()) };
            let wins = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(score, top);
            let loser = _mm512_mask_mov_ps(score, wins, top);
            next = _mm512_max_ps(loser, next);
            top = _mm512_mask_mov_ps(top, wins, score);
            id = _mm512_mask_mov_epi32(id, wins, _mm512_set1_epi32(center as i32));
        }
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_ps(best.as_mut_ptr(), top);
            _mm512_storeu_ps(second.as_mut_ptr(), next);
            _mm512_storeu_si512(ids.as_mut_ptr().cast(), id);
        }
    }
}
