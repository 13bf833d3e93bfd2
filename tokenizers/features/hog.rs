//! HOG of MaskFeat (SlowFast `HOGLayerC`): Sobel gradients per channel, 9 unsigned orientation bins, cells of half a patch, a Gaussian
//! window of one patch, L2 norm over the bins of a cell and channel, no block normalisation.
//!
//! Gradients are those of the rendered bytes, so they are integers and every bin is exact. SlowFast computes them on scaled pixels in
//! f32: rounding then moves gradients at an edge between bins, above all vertical ones (exactly pi), into the neighbouring bin. The
//! scaling itself changes nothing, because it is the same for a whole channel and the histograms are normalised.
//!
//! Each step is one vector loop over a row of pixels: gradients, bins (by comparison with the bins' edges, without angles), sums per
//! bin and column. A cell's columns are added after its last row. `hog.cu` adds in the same order, so its values are equal to the bit.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_kernels::device::launcher::{Device, DeviceError, Memory};
use tessera_kernels::ops::hog::launch;
use tessera_kernels::simd::vectorized;

use super::{Patches, per_patch};
use crate::Result;
use crate::config::Config;
use crate::contract::{DeviceFeatures, Features, Fingerprint, Grid};
use crate::registry::{BuildContext, FeaturesFactory};
use crate::view::{InputSpec, View};

/// Orientation bins.
const BINS: usize = 9;
/// Values per patch: 3 channels, 9 bins, 2x2 cells.
const DIM: usize = 3 * BINS * 4;

/// Factory of `hog`.
pub struct HogFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {}

impl FeaturesFactory for HogFactory {
    fn kind(&self) -> &'static str {
        "hog"
    }

    fn summary(&self) -> &'static str {
        "HOG of MaskFeat (SlowFast HOGLayerC): 9 bins, cells of half a patch, 108 numbers per patch"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let Fields {} = with.parse()?;
        let patches = Patches::of(with, cx)?;
        if !patches.side().is_multiple_of(2) {
            let message = format!(
                "needs an even patch_size (cells are half a patch), found {}",
                patches.side()
            );
            return Err(with.error("", message).into());
        }
        Ok(Box::new(Hog::new(patches)))
    }
}

/// SlowFast's `get_gkern`: outer product of a normal density over `side` points, divided by its sum, with sigma `side / 2`.
fn gaussian(side: usize) -> Vec<f32> {
    let sigma = side as f64 / 2.0;
    let center = (side as f64 - 1.0) / 2.0;
    let line: Vec<f64> = (0..side)
        .map(|i| (-0.5 * ((i as f64 - center) / sigma).powi(2)).exp())
        .collect();
    let sum: f64 = line.iter().sum::<f64>().powi(2);
    line.iter()
        .flat_map(|a| line.iter().map(move |b| (a * b / sum) as f32))
        .collect()
}

struct Hog {
    patches: Patches,
    /// Window of one patch, repeated over the image's width: `[side, image_size]`.
    window: Vec<f32>,
}

impl Features for Hog {
    fn grid(&self) -> Grid {
        self.patches.grid
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[format!("hog 3 {:?}", self.patches).as_bytes()])
    }

    /// The 108 values of a patch have MaskFeat's order (channel, bin, cell row, cell column).
    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let size = self.patches.image_size;
        // The model's scaling, so that both share one rendering.
        let input = InputSpec::imagenet(size);
        let images = view.values(&input)?;
        let per_image = self.grid().num_patches() * DIM;
        let mut out = vec![0.0; view.batch() * per_image];
        let mut work = Work::new(size);
        let planes = images.chunks_exact(3 * size * size);
        for (image, out) in planes.zip(out.chunks_exact_mut(per_image)) {
            for (channel, plane) in image.chunks_exact(size * size).enumerate() {
                work.bytes_of(plane, input.mean[channel], input.std[channel]);
                self.plane(channel, &mut work, out);
            }
        }
        per_patch(out, view.batch(), self.grid(), DIM)
    }

    fn on_device(&self) -> Option<&dyn DeviceFeatures> {
        Some(self)
    }
}

impl DeviceFeatures for Hog {
    fn extract(&self, device: &Device, view: &View<'_>) -> Result<Memory> {
        let (size, side) = (self.patches.image_size, self.patches.side());
        let images = view.render_on(device, size)?;
        let window = device.put(&gaussian(side))?;
        let launch = launch::hog(view.batch(), size, side).map_err(DeviceError::from)?;
        let given = [("images", &images), ("window", &window)];
        let [out] = device.run_all(&[launch], &given, ["out"])?;
        Ok(out)
    }
}

/// Buffers for rows of one image.
struct Work {
    /// The bytes of one channel, as f32.
    bytes: Vec<f32>,
    /// Three rows, reflected by one pixel at both ends.
    lines: [Vec<f32>; 3],
    /// Bin and windowed magnitude of each pixel of a row.
    bins: Vec<i32>,
    weights: Vec<f32>,
    /// Sums per bin and column over the rows of a cell.
    sums: Vec<f32>,
}

impl Work {
    fn new(size: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(size * size),
            lines: std::array::from_fn(|_| vec![0.0; size + 2]),
            bins: vec![0; size],
            weights: vec![0.0; size],
            sums: vec![0.0; BINS * size],
        }
    }

    /// Loads the bytes whose scaled values `(byte / 255 - mean) / std` are `plane`.
    fn bytes_of(&mut self, plane: &[f32], mean: f32, std: f32) {
        // Adding 2^23 leaves no bits for the fraction, which rounds; `round` would be a call on older machines.
        const ROUND: f32 = 8_388_608.0;
        let (factor, offset) = (std * 255.0, mean * 255.0);
        self.bytes.clear();
        let bytes = plane.iter().map(|v| (v * factor + offset + ROUND) - ROUND);
        self.bytes.extend(bytes);
    }

    /// Shifts the three lines and loads row `row` of the bytes as the last.
    fn push(&mut self, row: usize, size: usize) {
        self.lines.rotate_left(1);
        let line = &mut self.lines[2];
        line[1..=size].copy_from_slice(&self.bytes[row * size..][..size]);
        line[0] = line[2];
        line[size + 1] = line[size - 1];
    }

    /// Adds the middle line's gradients to the sums.
    #[inline(always)]
    fn add(&mut self, window: &[f32]) {
        let lines = self.lines.each_ref().map(Vec::as_slice);
        gradients(lines, window, &mut self.bins, &mut self.weights);
        for (bin, sums) in (0..).zip(self.sums.chunks_exact_mut(window.len())) {
            for ((sum, at), weight) in sums.iter_mut().zip(&self.bins).zip(&self.weights) {
                *sum += if *at == bin { *weight } else { 0.0 };
            }
        }
    }
}

impl Hog {
    fn new(patches: Patches) -> Self {
        let side = patches.side();
        let rows = gaussian(side);
        let rows = rows.chunks_exact(side);
        Self {
            patches,
            window: rows.flat_map(|row| row.repeat(patches.grid.cols)).collect(),
        }
    }

    /// Writes the histograms of the bytes of one channel to `out`.
    fn plane(&self, channel: usize, work: &mut Work, out: &mut [f32]) {
        let (size, side) = (self.patches.image_size, self.patches.side());
        let cell = side / 2;
        work.push(1, size);
        work.push(0, size);
        for (row, top) in (0..size).step_by(cell).enumerate() {
            work.sums.fill(0.0);
            for y in top..top + cell {
                work.push(if y + 1 < size { y + 1 } else { size - 2 }, size);
                let window = &self.window[y % side * size..][..size];
                vectorized(
                    #[inline(always)]
                    || work.add(window),
                );
            }
            self.cells(&work.sums, row, channel, out);
        }
    }

    /// Adds the columns of each cell of a row, normalises the histograms and writes them to `out`.
    fn cells(&self, sums: &[f32], row: usize, channel: usize, out: &mut [f32]) {
        let (size, cols) = (self.patches.image_size, self.patches.grid.cols);
        let cell = self.patches.side() / 2;
        for col in 0..2 * cols {
            let columns = |bin: usize| &sums[bin * size + col * cell..][..cell];
            let bins: [f32; BINS] = std::array::from_fn(|bin| columns(bin).iter().sum());
            let norm = bins.iter().map(|v| v * v).sum::<f32>().sqrt();
            // torch.nn.functional.normalize's eps.
            let scale = 1.0 / norm.max(1e-12);
            let patch = row / 2 * cols + col / 2;
            let first = patch * DIM + channel * BINS * 4 + row % 2 * 2 + col % 2;
            for (bin, value) in bins.into_iter().enumerate() {
                out[first + 4 * bin] = value * scale;
            }
        }
    }
}

/// Computes each pixel's bin, and its gradient's length times the window. SlowFast's 3x3 kernels: x is
/// `[1,0,-1; 2,0,-2; 1,0,-1]`, y its transpose.
#[inline(always)]
fn gradients(lines: [&[f32]; 3], window: &[f32], bins: &mut [i32], weights: &mut [f32]) {
    let size = window.len();
    let [above, at, below] = lines;
    let (a0, a1, a2) = (&above[..size], &above[1..][..size], &above[2..][..size]);
    let (b0, b2) = (&at[..size], &at[2..][..size]);
    let (c0, c1, c2) = (&below[..size], &below[1..][..size], &below[2..][..size]);
    let (bins, weights) = (&mut bins[..size], &mut weights[..size]);
    for x in 0..size {
        let gx = a0[x] - a2[x] + 2.0 * (b0[x] - b2[x]) + c0[x] - c2[x];
        let gy = a0[x] - c0[x] + 2.0 * (a1[x] - c1[x]) + a2[x] - c2[x];
        bins[x] = bin(gx, gy);
        weights[x] = (gx * gx + gy * gy).sqrt() * window[x];
    }
}

/// Numbers proportional to cosine and sine of the first four edges between bins, at multiples of 20 degrees. The other four are mirrored.
///
/// Their quotients are convergents of the tangents' continued fractions. No quotient of two gradients, which are integers of at most 1020,
/// lies between a tangent and its convergent, and none equals it, so comparing the products, exact in f32 below 2^24, is exact.
const EDGES: [(f32, f32); 4] = [
    (10347.0, 3766.0),
    (2399.0, 2013.0),
    (780.0, 1351.0),
    (2239.0, 12698.0),
];

/// Computes `floor(atan2(gx, gy) / pi * 9) mod 9` for integers of at most 1020, exactly, by counting the edges below the gradient's angle
/// modulo pi.
#[inline(always)]
fn bin(gx: f32, gy: f32) -> i32 {
    let fold = gx < 0.0 || (gx == 0.0 && gy < 0.0);
    let (x, y) = if fold { (-gx, -gy) } else { (gx, gy) };
    let mut bin = 0;
    for (cos, sin) in EDGES {
        let (across, along) = (x * cos, y * sin);
        bin += i32::from(across >= along) + i32::from(-across >= along);
    }
    bin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hog(size: usize, side: usize) -> Hog {
        let grid = Grid {
            rows: size / side,
            cols: size / side,
        };
        Hog::new(Patches {
            image_size: size,
            grid,
        })
    }

    /// Exact integers and f64 in Python (`tests/fixtures/hog/make.py`): photographs' noise, and edges of every multiple of 45 degrees.
    #[test]
    fn values_equal_exact_arithmetic() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/hog/exact.json")).unwrap();
        let numbers = |v: &serde_json::Value| -> Vec<f32> {
            let all = v.as_array().unwrap().iter();
            all.map(|x| x.as_f64().unwrap() as f32).collect()
        };
        for case in fixture.as_array().unwrap() {
            let number = |field: &str| case[field].as_u64().unwrap() as usize;
            let (size, side) = (number("size"), number("patch"));
            let hog = hog(size, side);
            let mut out = vec![0.0; hog.grid().num_patches() * DIM];
            let mut work = Work::new(size);
            let image = numbers(&case["image"]);
            for (channel, plane) in image.chunks_exact(size * size).enumerate() {
                work.bytes_of(plane, 0.0, 1.0 / 255.0);
                hog.plane(channel, &mut work, &mut out);
            }
            let expected = numbers(&case["hog"]);
            assert_eq!(out.len(), expected.len());
            for (at, (found, expected)) in out.iter().zip(&expected).enumerate() {
                let off = (found - expected).abs();
                assert!(off <= 1e-6, "{size}/{side}: {found} {expected} at {at}");
            }
        }
    }

    /// Scaling for the model must not change a byte.
    #[test]
    fn bytes_are_recovered_from_scaled_values() {
        let input = InputSpec::imagenet(16);
        let mut work = Work::new(16);
        for (mean, std) in input.mean.into_iter().zip(input.std) {
            let scaled: Vec<f32> = (0..=255_u8)
                .map(|byte| (f32::from(byte) / 255.0 - mean) / std)
                .collect();
            work.bytes_of(&scaled, mean, std);
            assert!(work.bytes.iter().copied().eq((0..256).map(|b| b as f32)));
        }
    }

    /// The definition of a bin, in f64. No gradient except the vertical and horizontal ones is within 1e-9 of an edge.
    fn plain_bin(gx: f32, gy: f32) -> i32 {
        let phase = f64::from(gx).atan2(f64::from(gy)) / std::f64::consts::PI * BINS as f64;
        (phase.floor() as i32).rem_euclid(BINS as i32)
    }

    /// All gradients that bytes can have.
    #[test]
    fn every_bin_is_that_of_the_exact_angle() {
        for gx in -1020..=1020_i16 {
            for gy in -1020..=1020_i16 {
                let (gx, gy) = (f32::from(gx), f32::from(gy));
                // A gradient of length 0 adds nothing to any bin.
                if (gx, gy) != (0.0, 0.0) {
                    assert_eq!(bin(gx, gy), plain_bin(gx, gy), "{gx} {gy}");
                }
            }
        }
    }

    /// Computes the histograms of one plane pixel by pixel.
    fn plain(plane: &[f32], size: usize, side: usize) -> Vec<f32> {
        let (cell, cols) = (side / 2, size / side);
        let window = gaussian(side);
        let reflect = |i: usize, d: usize| match (i + d).checked_sub(1) {
            None => 1,
            Some(i) if i == size => size - 2,
            Some(i) => i,
        };
        let mut out = vec![0.0; cols * cols * 4 * BINS];
        for row in 0..size {
            for col in 0..size {
                let at = |dy, dx| plane[reflect(row, dy) * size + reflect(col, dx)];
                let gx = at(0, 0) - at(0, 2) + 2.0 * (at(1, 0) - at(1, 2)) + at(2, 0) - at(2, 2);
                let gy = at(0, 0) - at(2, 0) + 2.0 * (at(0, 1) - at(2, 1)) + at(0, 2) - at(2, 2);
                let weight = window[row % side * side + col % side];
                let slot = (row / cell * 2 * cols + col / cell) * BINS;
                out[slot + plain_bin(gx, gy) as usize] += (gx * gx + gy * gy).sqrt() * weight;
            }
        }
        for cell in out.chunks_exact_mut(BINS) {
            let norm = cell.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            cell.iter_mut().for_each(|v| *v /= norm);
        }
        out
    }

    /// Images of byte values with axis-aligned and diagonal edges, flat parts and noise; rows with an odd number of vectors.
    #[test]
    fn vector_code_equals_the_plain_loop() {
        let drawn: [fn(usize, usize) -> usize; 5] = [
            |_, _| 90,
            |x, _| x / 5 * 40,
            |_, y| y / 3 * 25,
            |x, y| if x > y { 200 } else { 30 },
            |x, y| x * x * 31 + y * 57 + x * y * 13,
        ];
        for (size, side) in [(24, 4), (32, 16), (40, 8)] {
            for (number, draw) in drawn.iter().enumerate() {
                let value = |i: usize| (draw(i % size, i / size) % 256) as f32;
                let plane: Vec<f32> = (0..size * size).map(value).collect();
                let (hog, mut work) = (hog(size, side), Work::new(size));
                let grid = hog.grid();
                let mut found = vec![0.0; grid.num_patches() * DIM];
                work.bytes_of(&plane, 0.0, 1.0 / 255.0);
                hog.plane(0, &mut work, &mut found);
                let expected = plain(&plane, size, side);
                for (cell, expected) in expected.chunks_exact(BINS).enumerate() {
                    let (row, col) = (cell / (2 * grid.cols), cell % (2 * grid.cols));
                    let first = (row / 2 * grid.cols + col / 2) * DIM + row % 2 * 2 + col % 2;
                    for (bin, expected) in expected.iter().enumerate() {
                        let off = (found[first + 4 * bin] - expected).abs();
                        assert!(
                            off < 1e-5,
                            "image {number} {size}/{side} {row} {col} {bin}: {off}"
                        );
                    }
                }
            }
        }
    }
}
