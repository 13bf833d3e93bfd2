//! HOG of MaskFeat (SlowFast `HOGLayerC`): Sobel gradients per channel, 9 unsigned orientation bins, cells of half a patch, a Gaussian
//! window of one patch, L2 norm over the bins of a cell and channel, no block normalisation.
//!
//! Each step is one vector loop over a row of pixels: gradients, bins (by comparison with the bins' edges, without angles), sums per
//! bin and column. A cell's columns are added after its last row.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_kernels::device::launcher::{Device, DeviceError, Memory};
use tessera_kernels::ops::hog::launch;
use tessera_kernels::ops::patchify::Order;
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
        Fingerprint::of(&[format!("hog 2 {:?}", self.patches).as_bytes()])
    }

    /// The 108 values of a patch have MaskFeat's order (channel, bin, cell row, cell column).
    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let size = self.patches.image_size;
        let images = view.values(&InputSpec::imagenet(size))?;
        let per_image = self.grid().num_patches() * DIM;
        let mut out = vec![0.0; view.batch() * per_image];
        let mut work = Work::new(size);
        let planes = images.chunks_exact(3 * size * size);
        for (image, out) in planes.zip(out.chunks_exact_mut(per_image)) {
            for (channel, plane) in image.chunks_exact(size * size).enumerate() {
                self.plane(plane, channel, &mut work, out);
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
        let input = InputSpec::imagenet(size);
        // With one patch per image, the patch consists of the image's planes.
        let images = view.patches_on(device, &input, size, Order::ChannelFirst)?;
        let window = device.put(&gaussian(side))?;
        let launch = launch::hog(view.batch(), size, side).map_err(DeviceError::from)?;
        let given = [("images", &images), ("window", &window)];
        let [out] = device.run_all(&[launch], &given, ["out"])?;
        Ok(out)
    }
}

/// Buffers for rows of one image.
struct Work {
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
            lines: std::array::from_fn(|_| vec![0.0; size + 2]),
            bins: vec![0; size],
            weights: vec![0.0; size],
            sums: vec![0.0; BINS * size],
        }
    }

    /// Shifts the three lines and loads row `row` of `plane` as the last.
    fn push(&mut self, plane: &[f32], row: usize, size: usize) {
        self.lines.rotate_left(1);
        let line = &mut self.lines[2];
        line[1..=size].copy_from_slice(&plane[row * size..][..size]);
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

    /// Writes the histograms of one channel to `out`.
    fn plane(&self, plane: &[f32], channel: usize, work: &mut Work, out: &mut [f32]) {
        let (size, side) = (self.patches.image_size, self.patches.side());
        let cell = side / 2;
        work.push(plane, 1, size);
        work.push(plane, 0, size);
        for (row, top) in (0..size).step_by(cell).enumerate() {
            work.sums.fill(0.0);
            for y in top..top + cell {
                work.push(plane, if y + 1 < size { y + 1 } else { size - 2 }, size);
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

/// Cosine and sine of the first four edges between bins, at multiples of 20 degrees. The other four are mirrored.
const EDGES: [(f32, f32); 4] = [
    (0.939_692_6, 0.342_020_14),
    (0.766_044_44, 0.642_787_6),
    (0.5, 0.866_025_4),
    (0.173_648_18, 0.984_807_7),
];

/// Computes `floor(atan2(gx, gy) / pi * 9) mod 9` by counting the edges below the gradient's angle modulo pi.
#[inline(always)]
fn bin(gx: f32, gy: f32) -> i32 {
    let fold = gx < 0.0 || (gx == 0.0 && gy < 0.0);
    let (x, y) = if fold { (-gx, -gy) } else { (gx, gy) };
    let mut bin = 0;
    for (cos, sin) in EDGES {
        let (across, along) = (x * cos, y * sin);
        bin += i32::from(across >= along) + i32::from(-across >= along);
    }
    // For angles this close to pi (vertical up to rounding), atan2 in f32 returns pi, which is bin 0.
    let pi = gx > 0.0 && gx < gy * -3.2e-8;
    if pi { 0 } else { bin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_equal_the_torch_port() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/hog/torch.json")).unwrap();
        let numbers = |v: &serde_json::Value| -> Vec<f32> {
            v.as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap() as f32)
                .collect()
        };
        for case in fixture.as_array().unwrap() {
            let (size, side) = (
                case["size"].as_u64().unwrap() as usize,
                case["patch"].as_u64().unwrap() as usize,
            );
            let grid = Grid {
                rows: size / side,
                cols: size / side,
            };
            let hog = Hog::new(Patches {
                image_size: size,
                grid,
            });
            let mut out = vec![0.0; grid.num_patches() * DIM];
            let mut work = Work::new(size);
            for (channel, plane) in numbers(&case["image"])
                .chunks_exact(size * size)
                .enumerate()
            {
                hog.plane(plane, channel, &mut work, &mut out);
            }
            let expected = numbers(&case["hog"]);
            assert_eq!(out.len(), expected.len());
            for (at, (found, expected)) in out.iter().zip(&expected).enumerate() {
                // The fixture has seven decimals.
                let allowed = 1e-4 * expected.abs() + 1e-7;
                let off = (found - expected).abs();
                assert!(off <= allowed, "{size}/{side}: {found} {expected} at {at}");
            }
        }
    }

    /// The definition of a bin.
    fn plain_bin(gx: f32, gy: f32) -> i32 {
        let phase = gx.atan2(gy) / std::f32::consts::PI * BINS as f32;
        (phase.floor() as i32).rem_euclid(BINS as i32)
    }

    #[test]
    fn bins_equal_those_of_the_angle() {
        for (gx, gy) in [
            (0.0, 1.0),
            (0.0, -1.0),
            (-0.0, 1.0),
            (-0.0, -1.0),
            (1.0, 0.0),
            (-1.0, 0.0),
        ] {
            assert_eq!(bin(gx, gy), plain_bin(gx, gy), "{gx} {gy}");
        }
        // Vertical up to rounding.
        for tiny in [1e-12_f32, 1e-9, 1e-8, 5e-8, 1e-7, 1e-6] {
            for (gx, gy) in [(tiny, 1.0), (tiny, -1.0), (-tiny, 1.0), (-tiny, -1.0)] {
                assert_eq!(bin(gx, gy), plain_bin(gx, gy), "{gx} {gy}");
            }
        }
        for step in 0..36_000 {
            // At least 0.005 degrees from every edge.
            let angle = (f64::from(step) * 0.01 + 0.005).to_radians();
            let (gx, gy) = (angle.sin() as f32 * 3.0, angle.cos() as f32 * 3.0);
            assert_eq!(bin(gx, gy), plain_bin(gx, gy), "{step}");
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
                let value = |i: usize| (draw(i % size, i / size) % 256) as f32 / 255.0 / 0.229;
                let plane: Vec<f32> = (0..size * size).map(value).collect();
                let grid = Grid {
                    rows: size / side,
                    cols: size / side,
                };
                let hog = Hog::new(Patches {
                    image_size: size,
                    grid,
                });
                let mut found = vec![0.0; grid.num_patches() * DIM];
                hog.plane(&plane, 0, &mut Work::new(size), &mut found);
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
