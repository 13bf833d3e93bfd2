//! libjpeg's accurate integer inverse transform ("islow": Loeffler, Ligtenberg and Moschytz, 13-bit constants) of sixteen
//! blocks at once. Each lane holds one block, so both passes use the same vector code without shuffling.
//!
//! Samples out of range are clamped, as in libjpeg's vector code, which Pillow and torchvision use. That code also multiplies and adds in 16 bits, which
//! this does not: the coefficients of a damaged file, larger than any that an encoder writes, give other pixels there.

use std::num::Wrapping;

use tessera_kernels::simd::bytes::transposed;
use tessera_kernels::simd::vectorized;

use super::plane::Plane;

/// Blocks at once.
const LANES: usize = 16;
/// Fraction bits of a constant.
const FRACTION: u32 = 13;
/// Fraction bits between the passes.
const BETWEEN_BITS: u32 = 2;

type Int = Wrapping<i32>;

/// Blocks of a component that are transformed together.
pub struct Batch {
    coefficients: [[i16; LANES]; 64],
    between: [[Int; LANES]; 64],
    samples: [[u8; LANES]; 64],
    /// Position in the plane of each block's first sample.
    places: [usize; LANES],
    used: usize,
    /// Side of a decoded block: 8, or 4, 2, 1 for a smaller image.
    size: usize,
}

/// One block of a batch.
pub struct Block<'a> {
    coefficients: &'a mut [[i16; LANES]; 64],
    lane: usize,
}

impl Block<'_> {
    /// Sets the coefficient at `place` (below 64).
    #[inline(always)]
    pub fn set(&mut self, place: u8, value: i16) {
        self.coefficients[usize::from(place & 63)][self.lane % LANES] = value;
    }
}

impl Batch {
    /// Creates an empty batch; `size` is the side of a decoded block.
    pub fn new(size: usize) -> Self {
        Self {
            coefficients: [[0; LANES]; 64],
            between: [[Wrapping(0); LANES]; 64],
            samples: [[0; LANES]; 64],
            places: [0; LANES],
            used: 0,
            size,
        }
    }

    /// Returns a block of zeros for `place`. If the batch is full, it transforms the pending blocks first.
    #[inline(always)]
    pub fn next(&mut self, place: usize, plane: &mut Plane) -> Block<'_> {
        if self.used == LANES {
            self.flush(plane);
        }
        self.places[self.used] = place;
        self.used += 1;
        Block {
            coefficients: &mut self.coefficients,
            lane: self.used - 1,
        }
    }

    /// Transforms the pending blocks into their plane.
    #[inline(never)]
    pub fn flush(&mut self, plane: &mut Plane) {
        vectorized(
            #[inline(always)]
            || match self.size {
                1 => self.reduced([[ROOT]]),
                2 => self.reduced([[ROOT, ROOT], [ROOT, -ROOT]]),
                4 => self.reduced(QUARTERS),
                _ => self.transform(),
            },
        );
        for row in 0..self.size {
            let lines = &self.samples[8 * row..8 * row + 8];
            for (half, places) in self.places[..self.used].chunks(8).enumerate() {
                let part = |line: &[u8; LANES]| u64::from_le_bytes(line.as_chunks().0[half]);
                let blocks = transposed(std::array::from_fn(|x| part(&lines[x])));
                for (place, samples) in places.iter().zip(blocks) {
                    let at = place + row * plane.stride;
                    let samples = &samples.to_le_bytes()[..self.size];
                    plane.samples[at..at + self.size].copy_from_slice(samples);
                }
            }
        }
        self.coefficients = [[0; LANES]; 64];
        self.used = 0;
    }

    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "the compiler turns a lane of eight vectors into eight vectors"
    )]
    fn transform(&mut self) {
        for col in 0..8 {
            for lane in 0..LANES {
                let input = |u: usize| Wrapping(i32::from(self.coefficients[8 * u + col][lane]));
                let output = inverse(std::array::from_fn(input), FRACTION - BETWEEN_BITS);
                for (u, value) in output.into_iter().enumerate() {
                    self.between[8 * u + col][lane] = value;
                }
            }
        }
        for row in self.between.as_chunks_mut::<8>().0 {
            for lane in 0..LANES {
                // 3 more bits, because the 8x8 transform is scaled by 8.
                let input = std::array::from_fn(|v| row[v][lane]);
                let output = inverse(input, FRACTION + BETWEEN_BITS + 3);
                for (v, value) in output.into_iter().enumerate() {
                    row[v][lane] = value;
                }
            }
        }
        let values = self.between.as_flattened();
        for (sample, value) in self.samples.as_flattened_mut().iter_mut().zip(values) {
            *sample = value.0.clamp(-128, 127) as u8 ^ 0x80;
        }
    }
}

/// The square root of 1/8, and half the cosine and sine of pi / 8, in [`FRACTION`] bits.
const ROOT: i32 = 2896;
const COS: i32 = 3784;
const SIN: i32 = 1567;
/// Contributions of the four lowest frequencies to each of four samples.
const QUARTERS: [[i32; 4]; 4] = [
    [ROOT, COS, ROOT, SIN],
    [ROOT, SIN, -ROOT, -COS],
    [ROOT, -SIN, -ROOT, COS],
    [ROOT, -COS, ROOT, -SIN],
];

impl Batch {
    /// Computes the inverse transform of `N x N` samples from the lowest frequencies, which represent the block at that size.
    #[inline(always)]
    fn reduced<const N: usize>(&mut self, basis: [[i32; N]; N]) {
        const BETWEEN: u32 = 4;
        let sum = |at: usize, values: [i32; N], shift: u32| {
            let products = (0..N).map(|u| Wrapping(values[u]) * Wrapping(basis[at][u]));
            (products.sum::<Int>() + Wrapping(1 << (shift - 1))).0 >> shift
        };
        for (y, v) in (0..N * N).map(|i| (i / N, i % N)) {
            for lane in 0..LANES {
                let mut column = [0; N];
                for (u, value) in column.iter_mut().enumerate() {
                    *value = i32::from(self.coefficients[8 * u + v][lane]);
                }
                self.between[8 * y + v][lane].0 = sum(y, column, FRACTION - BETWEEN);
            }
        }
        for (y, x) in (0..N * N).map(|i| (i / N, i % N)) {
            for lane in 0..LANES {
                let mut row = [0; N];
                for (v, value) in row.iter_mut().enumerate() {
                    *value = self.between[8 * y + v][lane].0;
                }
                let value = sum(x, row, FRACTION + BETWEEN);
                self.samples[8 * y + x][lane] = value.clamp(-128, 127) as u8 ^ 0x80;
            }
        }
    }
}

/// Returns a constant of the transform in fixed point.
const fn fixed(value: f64) -> Int {
    Wrapping((value * (1 << FRACTION) as f64 + 0.5) as i32)
}

/// Transforms eight coefficients to eight samples, rounded and shifted down by `shift` bits.
#[inline(always)]
fn inverse(c: [Int; 8], shift: u32) -> [Int; 8] {
    const ROOT: [Int; 3] = [
        fixed(0.541_196_100),
        fixed(0.765_366_865),
        fixed(1.847_759_065),
    ];
    // Even half: a rotation of (2, 6) and a butterfly of (0, 4).
    let turned = (c[2] + c[6]) * ROOT[0];
    let (high, low) = (turned + c[2] * ROOT[1], turned - c[6] * ROOT[2]);
    let one = Wrapping(1 << FRACTION);
    let (sum, difference) = ((c[0] + c[4]) * one, (c[0] - c[4]) * one);
    let even = [sum + high, difference + low, difference - low, sum - high];
    // Odd half.
    let shared = (c[7] + c[3] + c[5] + c[1]) * fixed(1.175_875_602);
    let a = (c[7] + c[1]) * fixed(0.899_976_223);
    let b = (c[5] + c[3]) * fixed(2.562_915_447);
    let d = shared - (c[7] + c[3]) * fixed(1.961_570_560);
    let e = shared - (c[5] + c[1]) * fixed(0.390_180_644);
    let odd = [
        c[1] * fixed(1.501_321_110) - a + e,
        c[3] * fixed(3.072_711_026) - b + d,
        c[5] * fixed(2.053_119_869) - b + e,
        c[7] * fixed(0.298_631_336) - a + d,
    ];
    let half = Wrapping(1 << (shift - 1));
    std::array::from_fn(|i| {
        let value = if i < 4 {
            even[i] + odd[i]
        } else {
            even[7 - i] - odd[7 - i]
        };
        (value + half) >> shift as usize
    })
}
