//! Pillow's bicubic resampling, byte for byte (`libImaging/Resample.c`): antialiased, horizontal pass then vertical, 8 bits between
//! them, weights as 22-bit fixed point. (The crate `fast_image_resize` ignores pixels outside the box and so differs by up to 11 of
//! 255 at its edges.)
//!
//! Both passes use one kernel: [`LANES`] neighbouring bytes times one weight. For the horizontal pass [`LANES`] rows are transposed
//! before and after. So all sums are whole vectors for any number of weights; they are integers, so their order does not matter.

use tessera_kernels::ops::resample::{PRECISION, add_taps};
use tessera_kernels::simd::bytes;
use tessera_kernels::simd::vectorized;

use super::sample::{CropBox, Image};

/// Bytes per vector.
const LANES: usize = 16;

type Bytes = [u8; LANES];

/// Tables and buffers, reused from image to image.
#[derive(Default)]
pub struct Resizer {
    across: Weights,
    down: Weights,
    rows: Vec<Bytes>,
    strip: Strip,
}

/// [`LANES`] transposed rows: one element per column and channel.
#[derive(Default)]
struct Strip {
    input: Vec<Bytes>,
    output: Vec<Bytes>,
}

impl Resizer {
    /// Writes the box of `image` as three planes of `side x side` bytes, mirrored if `flip`.
    pub fn resize(
        &mut self,
        image: &Image,
        crop: CropBox,
        side: usize,
        flip: bool,
        planes: &mut [u8],
    ) {
        self.across
            .set(crop.left, crop.width, image.width, side, flip);
        self.down
            .set(crop.top, crop.height, image.height, side, false);
        vectorized(
            #[inline(always)]
            || self.run(image, side, planes),
        );
    }

    #[inline(always)]
    fn run(&mut self, image: &Image, side: usize, planes: &mut [u8]) {
        // Only the rows that the vertical pass reads.
        let (first, last) = self.down.range();
        let chunks = side.div_ceil(LANES);
        self.rows.clear();
        self.rows.resize(
            (last - first).next_multiple_of(LANES) * 3 * chunks,
            [0; LANES],
        );
        let strips = self.rows.chunks_exact_mut(LANES * 3 * chunks);
        for (rows, start) in strips.zip((first..last).step_by(LANES)) {
            let end = (start + LANES).min(last);
            self.strip.load(image, start..end, self.across.range());
            self.strip.weigh(&self.across, side);
            self.strip.store(rows, 3 * chunks);
        }
        for (plane, c) in planes.chunks_exact_mut(side * side).zip(0..) {
            for (line, tap) in plane.chunks_exact_mut(side).zip(self.down.taps()) {
                for (out, chunk) in line.chunks_mut(LANES).zip(0..) {
                    let at = (tap.start - first) * 3 * chunks + c * chunks + chunk;
                    let sums = weigh(&self.rows[at..], 3 * chunks, tap.weights);
                    out.copy_from_slice(&sums[..out.len()]);
                }
            }
        }
    }
}

impl Strip {
    /// Loads and transposes columns `first..last` of `rows` (at most [`LANES`]); missing rows are 0.
    #[inline(always)]
    fn load(&mut self, image: &Image, rows: std::ops::Range<usize>, (first, last): (usize, usize)) {
        let length = (last - first) * 3;
        self.input
            .resize(length.next_multiple_of(LANES), [0; LANES]);
        for (out, at) in self.input.as_chunks_mut::<LANES>().0.iter_mut().zip(0..) {
            let from = at * LANES;
            let count = LANES.min(length - from);
            let mut block = [[0; LANES]; LANES];
            for (line, row) in block.iter_mut().zip(rows.clone()) {
                let bytes = &image.rgb[(row * image.width + first) * 3 + from..];
                match bytes.first_chunk() {
                    Some(whole) => *line = *whole,
                    None => line[..count].copy_from_slice(&bytes[..count]),
                }
            }
            *out = transposed(&block);
        }
    }

    /// The horizontal pass, channel by channel, so that the output consists of planes.
    #[inline(always)]
    fn weigh(&mut self, across: &Weights, side: usize) {
        let wide = side.next_multiple_of(LANES);
        let first = across.range().0;
        self.output.resize(3 * wide, [0; LANES]);
        for (line, c) in self.output.chunks_exact_mut(wide).zip(0..) {
            for (out, tap) in line.iter_mut().zip(across.taps()) {
                *out = weigh(&self.input[(tap.start - first) * 3 + c..], 3, tap.weights);
            }
        }
    }

    /// Transposes back to [`LANES`] rows of `stride` elements.
    #[inline(always)]
    fn store(&self, rows: &mut [Bytes], stride: usize) {
        for (block, at) in self.output.as_chunks().0.iter().zip(0..) {
            for (line, row) in transposed(block).into_iter().zip(0..) {
                rows[row * stride + at] = line;
            }
        }
    }
}

/// Returns the weighted sum of every `step`-th line.
#[inline(always)]
fn weigh(lines: &[Bytes], step: usize, weights: &[i32]) -> Bytes {
    let mut sums = [1_i32 << (PRECISION - 1); LANES];
    for (line, weight) in lines.iter().step_by(step).zip(weights) {
        for (sum, byte) in sums.iter_mut().zip(line) {
            *sum += i32::from(*byte) * weight;
        }
    }
    sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8)
}

/// Returns the transposed block.
#[inline(always)]
fn transposed(block: &[Bytes; LANES]) -> [Bytes; LANES] {
    let mut out = [[0; LANES]; LANES];
    for (top, left) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        let word = |i: usize| u64::from_le_bytes(block[top + i].as_chunks().0[left / 8]);
        let words = bytes::transposed(std::array::from_fn(word));
        for (word, line) in words.iter().zip(&mut out[left..]) {
            line[top..top + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    out
}

/// For each output position, the first input position and the weights from there.
#[derive(Default)]
struct Weights {
    key: Option<(f64, f64, usize, usize, bool)>,
    starts: Vec<usize>,
    ends: Vec<usize>,
    weights: Vec<i32>,
}

/// Weights of one output position.
struct Tap<'a> {
    start: usize,
    weights: &'a [i32],
}

impl Weights {
    /// Computes the table, unless it is already the current one: from a box with start `from` and `length` on `input` pixels to `output`
    /// positions, in reverse order if `reversed`.
    fn set(&mut self, from: f64, length: f64, input: usize, output: usize, reversed: bool) {
        let key = Some((from, length, input, output, reversed));
        if self.key == key {
            return;
        }
        self.key = key;
        self.starts.clear();
        self.ends.clear();
        self.weights.clear();
        let scale = length / output as f64;
        for at in 0..output {
            let at = if reversed { output - 1 - at } else { at };
            self.add(from + (at as f64 + 0.5) * scale, scale.max(1.0), input);
        }
    }

    fn add(&mut self, center: f64, stretch: f64, input: usize) {
        let start = add_taps(center, stretch, input, &mut self.weights);
        self.starts.push(start);
        self.ends.push(self.weights.len());
    }

    #[inline(always)]
    fn taps(&self) -> impl Iterator<Item = Tap<'_>> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let spans = begins.zip(&self.ends);
        self.starts.iter().zip(spans).map(|(&start, (a, b))| Tap {
            start,
            weights: &self.weights[a..*b],
        })
    }

    /// Returns the range of input positions that outputs read.
    fn range(&self) -> (usize, usize) {
        let first = self.starts.iter().copied().min();
        let last = self.taps().map(|t| t.start + t.weights.len()).max();
        (first.unwrap_or(0), last.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_transposed() {
        let block = std::array::from_fn(|i| std::array::from_fn(|j| (i * LANES + j) as u8));
        let turned = transposed(&block);
        for i in 0..LANES {
            for j in 0..LANES {
                assert_eq!(turned[i][j], block[j][i], "{i} {j}");
            }
        }
    }
}
