//! libjpeg's accurate integer inverse transform ("islow": Loeffler, Ligtenberg and Moschytz, 13-bit constants), sixteen
//! blocks at once: one block per lane, so that both passes are the same vector code and nothing is shuffled between them.
//!
//! Out of range samples are clamped, as libjpeg's vector code does, which Pillow and torchvision run.

use std::num::Wrapping;

use tessera_models::kernels::bytes::transposed;
use tessera_models::kernels::simd::vectorized;

use super::Plane;

/// Blocks at once.
const LANES: usize = 16;
/// Bits of a constant's fraction.
const FRACTION: u32 = 13;
/// Bits of fraction that stay between the passes.
const KEPT: u32 = 2;

type Int = Wrapping<i32>;

/// Blocks of any components that wait for each other.
pub struct Batch {
    coefficients: [[i16; LANES]; 64],
    between: [[Int; LANES]; 64],
    samples: [[u8; LANES]; 64],
    /// Component, and first sample in its plane.
    places: [(usize, usize); LANES],
    used: usize,
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
    pub fn new() -> Self {
        Self {
            coefficients: [[0; LANES]; 64],
            between: [[Wrapping(0); LANES]; 64],
            samples: [[0; LANES]; 64],
            places: [(0, 0); LANES],
            used: 0,
        }
    }

    /// A block of zeros for (component, place); transforms the waiting ones first when there is no room.
    #[inline(always)]
    pub fn next(&mut self, place: (usize, usize), planes: &mut [Plane]) -> Block<'_> {
        if self.used == LANES {
            self.flush(planes);
        }
        self.places[self.used] = place;
        self.used += 1;
        Block {
            coefficients: &mut self.coefficients,
            lane: self.used - 1,
        }
    }

    /// Transforms the waiting blocks into their planes.
    #[inline(never)]
    pub fn flush(&mut self, planes: &mut [Plane]) {
        vectorized(
            #[inline(always)]
            || self.transform(),
        );
        for row in 0..8 {
            let lines = &self.samples[8 * row..8 * row + 8];
            for (half, places) in self.places[..self.used].chunks(8).enumerate() {
                let part = |line: &[u8; LANES]| u64::from_le_bytes(line.as_chunks().0[half]);
                let blocks = transposed(std::array::from_fn(|x| part(&lines[x])));
                for ((c, place), samples) in places.iter().zip(blocks) {
                    let plane = &mut planes[*c];
                    let at = place + row * plane.stride;
                    plane.samples[at..at + 8].copy_from_slice(&samples.to_le_bytes());
                }
            }
        }
        self.coefficients = [[0; LANES]; 64];
        self.used = 0;
    }

    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "a lane of eight vectors, as the compiler turns into eight vectors"
    )]
    fn transform(&mut self) {
        for col in 0..8 {
            for lane in 0..LANES {
                let input = |u: usize| Wrapping(i32::from(self.coefficients[8 * u + col][lane]));
                let output = inverse(std::array::from_fn(input), FRACTION - KEPT);
                for (u, value) in output.into_iter().enumerate() {
                    self.between[8 * u + col][lane] = value;
                }
            }
        }
        for row in self.between.as_chunks_mut::<8>().0 {
            for lane in 0..LANES {
                // 3 more bits: the transform of 8x8 is 8 times too large.
                let input = std::array::from_fn(|v| row[v][lane]);
                let output = inverse(input, FRACTION + KEPT + 3);
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

/// A constant of the transform.
const fn fixed(value: f64) -> Int {
    Wrapping((value * (1 << FRACTION) as f64 + 0.5) as i32)
}

/// Eight coefficients to eight samples, rounded and shifted down by `shift` bits.
#[inline(always)]
fn inverse(c: [Int; 8], shift: u32) -> [Int; 8] {
    const ROOT: [Int; 3] = [
        fixed(0.541_196_100),
        fixed(0.765_366_865),
        fixed(1.847_759_065),
    ];
    // The even half: a rotation of (2, 6) and a butterfly of (0, 4).
    let turned = (c[2] + c[6]) * ROOT[0];
    let (high, low) = (turned + c[2] * ROOT[1], turned - c[6] * ROOT[2]);
    let one = Wrapping(1 << FRACTION);
    let (sum, difference) = ((c[0] + c[4]) * one, (c[0] - c[4]) * one);
    let even = [sum + high, difference + low, difference - low, sum - high];
    // The odd half.
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
