//! Pillow's bicubic resampling, byte for byte (`libImaging/Resample.c`): antialiased, horizontal pass then vertical, 8-bit
//! between them, weights as 22-bit fixed point. (The crate `fast_image_resize` sees no pixels outside the box and so
//! differs by up to 11 of 255 at its edges.)

use super::{CropBox, Image};

/// Bits of a weight's fraction.
const PRECISION: u32 = 32 - 8 - 2;

/// The box of `image` as a `side x side` RGB square.
pub fn resize(image: &Image, crop: CropBox, side: usize) -> Vec<u8> {
    let across = Weights::new(crop.left, crop.width, image.width, side);
    let down = Weights::new(crop.top, crop.height, image.height, side);
    // Only the rows that the vertical pass will read.
    let (first, last) = down.range();
    let mut rows = vec![0_u8; (last - first) * side * 3];
    for (out, row) in rows.chunks_exact_mut(side * 3).zip(first..last) {
        let line = &image.rgb[row * image.width * 3..(row + 1) * image.width * 3];
        for (out, (start, weights)) in out.chunks_exact_mut(3).zip(across.each()) {
            let mut sums = [1_i32 << (PRECISION - 1); 3];
            for (pixel, weight) in line[start * 3..].chunks_exact(3).zip(weights) {
                sums.iter_mut()
                    .zip(pixel)
                    .for_each(|(s, p)| *s += i32::from(*p) * weight);
            }
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = clip(s));
        }
    }
    let mut out = vec![0_u8; side * side * 3];
    let mut sums = vec![0_i32; side * 3];
    for (out, (start, weights)) in out.chunks_exact_mut(side * 3).zip(down.each()) {
        sums.fill(1 << (PRECISION - 1));
        for (line, weight) in rows[(start - first) * side * 3..]
            .chunks_exact(side * 3)
            .zip(weights)
        {
            sums.iter_mut()
                .zip(line)
                .for_each(|(s, p)| *s += i32::from(*p) * weight);
        }
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = clip(*s));
    }
    out
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// For each output position: its first input position and the weights from there on.
struct Weights {
    starts: Vec<usize>,
    ends: Vec<usize>,
    weights: Vec<i32>,
}

impl Weights {
    fn new(from: f64, length: f64, input: usize, output: usize) -> Self {
        let scale = length / output as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let mut all = Self {
            starts: Vec::with_capacity(output),
            ends: Vec::with_capacity(output),
            weights: Vec::new(),
        };
        let mut line = Vec::new();
        for at in 0..output {
            let center = from + (at as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            line.clear();
            line.extend((start..end).map(|x| bicubic((x as f64 - center + 0.5) / stretch)));
            let total: f64 = line.iter().sum();
            let unit = f64::from(1_u32 << PRECISION);
            all.weights.extend(line.iter().map(|w| {
                let fixed = w / total * unit;
                (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32
            }));
            all.starts.push(start);
            all.ends.push(all.weights.len());
        }
        all
    }

    fn each(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        self.starts
            .iter()
            .zip(begins.zip(&self.ends))
            .map(|(start, (a, b))| (*start, &self.weights[a..*b]))
    }

    /// First and last input position that any output reads.
    fn range(&self) -> (usize, usize) {
        let last = self
            .each()
            .map(|(start, weights)| start + weights.len())
            .max();
        (self.starts.first().copied().unwrap_or(0), last.unwrap_or(0))
    }
}

/// Keys' cubic with a = -0.5.
fn bicubic(x: f64) -> f64 {
    let (x, a) = (x.abs(), -0.5);
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}
