//! HOG as MaskFeat uses it (SlowFast `HOGLayerC`): per channel Sobel gradients, 9 unsigned orientation bins, cells of half a
//! patch, a Gaussian window of one patch, L2 norm over the bins of a cell and channel, no block normalisation.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Patches, per_patch};
use crate::Result;
use crate::config::Config;
use crate::contract::{BuildContext, Features, FeaturesFactory, Fingerprint, Grid};
use crate::view::{InputSpec, View};

/// Orientation bins.
const BINS: usize = 9;
/// 3 channels, 9 bins, 2x2 cells.
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
        let patches = Patches::of(cx);
        if !patches.side().is_multiple_of(2) {
            let message = format!(
                "needs an even patch_size (cells are half a patch), found {}",
                patches.side()
            );
            return Err(with.error("", message).into());
        }
        Ok(Box::new(Hog {
            patches,
            window: gaussian(patches.side()),
        }))
    }
}

/// SlowFast's `get_gkern`: outer product of a normal density over `side` points, divided by its sum; sigma is half the side.
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
        Fingerprint::of(&[format!("hog 1 {:?}", self.patches).as_bytes()])
    }

    /// The 108 numbers of a patch stand in the order (channel, bin, cell row, cell column), as MaskFeat unfolds them.
    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let size = self.patches.image_size;
        let images: Vec<f32> = view
            .render(&InputSpec::imagenet(size))?
            .flatten_all()?
            .to_vec1()?;
        let mut out = vec![0.0; view.batch() * self.grid().num_patches() * DIM];
        let per_image = self.grid().num_patches() * DIM;
        for (image, out) in images
            .chunks_exact(3 * size * size)
            .zip(out.chunks_exact_mut(per_image))
        {
            for (channel, plane) in image.chunks_exact(size * size).enumerate() {
                self.plane(plane, channel, out);
            }
        }
        per_patch(out, view.batch(), self.grid(), DIM)
    }
}

impl Hog {
    /// One channel's histograms into `out`.
    fn plane(&self, plane: &[f32], channel: usize, out: &mut [f32]) {
        let (size, side) = (self.patches.image_size, self.patches.side());
        let (cell, cols) = (side / 2, self.patches.grid.cols);
        let slot = |row: usize, col: usize, bin: usize| {
            let patch = (row / side) * cols + col / side;
            let quarter = (row % side) / cell * 2 + (col % side) / cell;
            patch * DIM + (channel * BINS + bin) * 4 + quarter
        };
        for row in 0..size {
            for col in 0..size {
                let (gx, gy) = sobel(plane, size, row, col);
                let weight = self.window[(row % side) * side + col % side];
                out[slot(row, col, bin(gx, gy))] += (gx * gx + gy * gy).sqrt() * weight;
            }
        }
        for row in (0..size).step_by(cell) {
            for col in (0..size).step_by(cell) {
                let norm = (0..BINS)
                    .map(|b| out[slot(row, col, b)].powi(2))
                    .sum::<f32>()
                    .sqrt();
                // torch.nn.functional.normalize's eps.
                let scale = 1.0 / norm.max(1e-12);
                (0..BINS).for_each(|b| out[slot(row, col, b)] *= scale);
            }
        }
    }
}

/// SlowFast's 3x3 kernels with reflected borders: x is `[1,0,-1; 2,0,-2; 1,0,-1]`, y its transpose.
fn sobel(plane: &[f32], size: usize, row: usize, col: usize) -> (f32, f32) {
    let reflect = |i: usize, d: usize| match (i + d).checked_sub(1) {
        None => 1,
        Some(i) if i == size => size - 2,
        Some(i) => i,
    };
    let at = |dy, dx| plane[reflect(row, dy) * size + reflect(col, dx)];
    let gx = at(0, 0) - at(0, 2) + 2.0 * (at(1, 0) - at(1, 2)) + at(2, 0) - at(2, 2);
    let gy = at(0, 0) - at(2, 0) + 2.0 * (at(0, 1) - at(2, 1)) + at(0, 2) - at(2, 2);
    (gx, gy)
}

/// The bin of `atan2(gx, gy)`, folded by pi: `floor(angle / pi * 9) mod 9`.
fn bin(gx: f32, gy: f32) -> usize {
    let phase = gx.atan2(gy) / std::f32::consts::PI * BINS as f32;
    (phase.floor() as i32).rem_euclid(BINS as i32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_the_torch_port_computes_them() {
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
            let hog = Hog {
                patches: Patches {
                    image_size: size,
                    grid,
                },
                window: gaussian(side),
            };
            let mut out = vec![0.0; grid.num_patches() * DIM];
            for (channel, plane) in numbers(&case["image"])
                .chunks_exact(size * size)
                .enumerate()
            {
                hog.plane(plane, channel, &mut out);
            }
            let expected = numbers(&case["hog"]);
            assert_eq!(out.len(), expected.len());
            let worst = out
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-5, "{size}/{side}: {worst}");
        }
    }
}
