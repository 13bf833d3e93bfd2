//! Launches of `resample.cu` and their tables.

use super::add_taps;
use crate::device::launch::{
    Arg, Dtype, Launch, Module, Result, THREADS, blocks, expect, module, product, read, size, write,
};

/// An image and the box to crop, which lies inside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// Width and height of the image, pixels.
    pub size: [usize; 2],
    /// Left and top of the box, pixels.
    pub from: [f64; 2],
    /// Width and height of the box, pixels.
    pub length: [f64; 2],
    /// Whether to mirror the result horizontally.
    pub flip: bool,
}

/// Inputs of the kernels besides pixels, defined in `resample.cu`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// Total bytes of all images.
    pub pixels: usize,
    /// `[rows]`
    pub row_at: Vec<u64>,
    /// `[rows]`
    pub image_of: Vec<u32>,
    /// `[images, side, 3]`
    pub across: Vec<u32>,
    /// `[images, side, 3]`
    pub down: Vec<u32>,
    /// Weights of all output positions.
    pub weights: Vec<i32>,
}

impl Tables {
    /// Computes the tables for concatenated images, each resized to `side x side`.
    pub fn of(boxes: &[Crop], side: usize) -> Self {
        let mut tables = Self::default();
        for (image, of) in (0..).zip(boxes) {
            let across = tables.add(of, 0, side);
            tables.across.extend(across);
            let mut down = tables.add(of, 1, side);
            let rows = down.chunks_exact(3);
            let first = rows.clone().map(|tap| tap[0]).min().unwrap_or(0);
            let last = rows.map(|tap| tap[0] + tap[2]).max().unwrap_or(0);
            let before = tables.row_at.len() as u32;
            for tap in down.chunks_exact_mut(3) {
                tap[0] = tap[0] - first + before;
            }
            tables.down.extend(down);
            let line = of.size[0] * 3;
            let rows = (first..last).map(|row| (tables.pixels + row as usize * line) as u64);
            tables.row_at.extend(rows);
            tables.image_of.resize(tables.row_at.len(), image);
            tables.pixels += line * of.size[1];
        }
        tables
    }

    /// Returns start, first weight and number of weights of each position along an axis.
    fn add(&mut self, of: &Crop, axis: usize, side: usize) -> Vec<u32> {
        let scale = of.length[axis] / side as f64;
        let mut taps = Vec::with_capacity(3 * side);
        for at in 0..side {
            let at = if of.flip && axis == 0 {
                side - 1 - at
            } else {
                at
            };
            let center = of.from[axis] + (at as f64 + 0.5) * scale;
            let first = self.weights.len();
            let start = add_taps(center, scale.max(1.0), of.size[axis], &mut self.weights);
            taps.extend([start, first, self.weights.len() - first].map(|v| v as u32));
        }
        taps
    }
}

fn source() -> Module {
    module("resample", include_str!("resample.cu"), &[])
}

/// Resizes `pixels` through `middle` to `out` `[images, side, side, 3]` bytes, the input of `patchify_u8`.
///
/// # Errors
/// If there are no images, `side` is 0, or a size exceeds 31 bits.
pub fn resample(tables: &Tables, side: usize) -> Result<[Launch; 2]> {
    expect(side > 0, "resample", "side", side, "at least 1")?;
    let (rows, images) = (tables.row_at.len(), tables.down.len() / 3 / side);
    expect(rows > 0, "resample", "rows", rows, "at least 1")?;
    let middle = product("middle", &[rows, side, 3])?;
    let weights = tables.weights.len();
    size("weights", weights)?;
    let args = vec![
        read("pixels", Dtype::U8, tables.pixels),
        read("row_at", Dtype::U64, rows),
        read("image_of", Dtype::U32, rows),
        read("across", Dtype::U32, tables.across.len()),
        read("weights", Dtype::I32, weights),
        write("middle", Dtype::U8, middle),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("side", size("side", side)?),
    ];
    let grid = blocks(middle as u64, THREADS)?;
    let across = Launch::new(source(), "resample_across", grid, args);
    let out = product("out", &[images, side, side, 3])?;
    let args = vec![
        read("middle", Dtype::U8, middle),
        read("down", Dtype::U32, tables.down.len()),
        read("weights", Dtype::I32, weights),
        write("out", Dtype::U8, out),
        Arg::U32("images", size("images", images)?),
        Arg::U32("side", size("side", side)?),
    ];
    let grid = blocks(out as u64, THREADS)?;
    let down = Launch::new(source(), "resample_down", grid, args);
    Ok([across, down])
}
