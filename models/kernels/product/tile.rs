//! A tile of the result: where it lies, and how sums are added to what it starts from.

use std::arch::x86_64::_MM_HINT_ET0;

use pulp::Simd;
use pulp::x86::V4;

use super::matrix::{Job, Start};
use super::side::Side;
use super::x86::{LANES, Lanes, fetch};

/// Minimum number of inner lanes at which the destination is prefetched.
const FAR: usize = 128;

/// A tile's position and size in the result.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub cols: usize,
    /// Whether this is the first chunk.
    pub starts: bool,
}

impl Tile {
    /// Prefetches the destination if the sums over `depth` inner lanes take long enough.
    #[inline(always)]
    pub(super) fn fetch(self, job: &Job<'_, Side<'_>>, depth: usize) {
        if depth >= FAR {
            for row in self.row..self.row + self.rows {
                let at = job.out.wrapping_add(row * job.stride + self.column);
                fetch::<_MM_HINT_ET0>(at, self.cols.next_multiple_of(LANES));
            }
        }
    }

    /// Writes the tile's part of a row of the result.
    #[inline(always)]
    pub(super) fn put(self, simd: V4, job: &Job<'_, Side<'_>>, row: usize, sums: &[Lanes]) {
        let at = row * job.stride + self.column;
        #[expect(unsafe_code, reason = "the destination need not be initialised")]
        // SAFETY: `row` and the tile's columns lie inside the job's, which its creator declares valid. They are read only after the
        // first chunk has written them, or if the creator declares them readable.
        let out = unsafe { std::slice::from_raw_parts_mut(job.out.add(at), self.cols) };
        let out = out.chunks_mut(LANES).zip(sums);
        let factor = simd.splat_f32s(job.factor);
        let columns = self.column..self.column + self.cols;
        let start = match self.starts {
            true => job.start,
            false => Start::There,
        };
        match start {
            Start::Zero => {
                for (out, sum) in out {
                    store(simd, out, simd.mul_f32s(factor, *sum));
                }
            }
            Start::There => {
                for (out, sum) in out {
                    let begin = load(simd, out);
                    store(simd, out, simd.mul_add_f32s(factor, *sum, begin));
                }
            }
            Start::Row(bias) => {
                for ((out, sum), bias) in out.zip(bias[columns].chunks(LANES)) {
                    let begin = load(simd, bias);
                    store(simd, out, simd.mul_add_f32s(factor, *sum, begin));
                }
            }
            Start::Sum(x, bias) => {
                let x = x[row * job.b.outer() + self.column..].chunks(LANES);
                for (((out, sum), bias), x) in out.zip(bias[columns].chunks(LANES)).zip(x) {
                    // The last vector of `x` may go beyond the tile.
                    let begin = load(simd, &x[..bias.len()]);
                    let begin = simd.add_f32s(begin, load(simd, bias));
                    store(simd, out, simd.mul_add_f32s(factor, *sum, begin));
                }
            }
        }
    }
}

/// Loads up to one vector of numbers, padded with zeros.
#[inline(always)]
fn load(simd: V4, from: &[f32]) -> Lanes {
    match V4::as_simd_f32s(from) {
        ([whole], _) => *whole,
        (_, part) => simd.partial_load_f32s(part),
    }
}

/// Stores as many numbers as fit.
#[inline(always)]
fn store(simd: V4, to: &mut [f32], numbers: Lanes) {
    match V4::as_mut_simd_f32s(to) {
        ([whole], _) => *whole = numbers,
        (_, part) => simd.partial_store_f32s(part, numbers),
    }
}
