//! Launches of `resample.cu` and their tables.

use std::ops::Range;

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

/// The rectangle of an image's pixels that the kernels read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Width of the image, pixels.
    pub width: usize,
    /// Rows of the image.
    pub rows: Range<usize>,
    /// Columns of the image.
    pub columns: Range<usize>,
}

impl Region {
    /// Returns the bytes of the rectangle in `rgb`, the bytes of an image `[height, width, 3]`: in pieces, row after row.
    pub fn pieces<'a>(&self, rgb: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (line, columns) = (3 * self.width, self.columns.clone());
        let is_whole = columns.len() == self.width;
        let rows = match is_whole {
            true => self.rows.start..self.rows.start + 1,
            false => self.rows.clone(),
        };
        let bytes = match is_whole {
            true => self.bytes(),
            false => 3 * columns.len(),
        };
        rows.map(move |row| {
            let start = row * line + 3 * columns.start;
            &rgb[start..start + bytes]
        })
    }

    fn bytes(&self) -> usize {
        3 * self.rows.len() * self.columns.len()
    }
}

/// Inputs of the kernels besides pixels, defined in `resample.cu`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// The pixels of each image that the kernels read, which are copied to the device.
    pub regions: Vec<Region>,
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
    /// Computes the tables for the concatenated regions of images, each resized to `side x side`.
    pub fn of(boxes: &[Crop], side: usize) -> Self {
        let mut tables = Self::default();
        let mut pixels = 0;
        for (image, of) in (0..).zip(boxes) {
            let (across, columns) = tables.add(of, 0, side, 0);
            let (down, rows) = tables.add(of, 1, side, tables.row_at.len());
            tables.across.extend(across);
            tables.down.extend(down);
            let region = Region {
                width: of.size[0],
                rows,
                columns,
            };
            let line = 3 * region.columns.len();
            let starts = (0..region.rows.len()).map(|row| (pixels + row * line) as u64);
            tables.row_at.extend(starts);
            tables.image_of.resize(tables.row_at.len(), image);
            pixels += region.bytes();
            tables.regions.push(region);
        }
        tables
    }

    /// Returns start, first weight and number of weights of each position along an axis, and the range that they read, whose first
    /// place is called `first`.
    fn add(
        &mut self,
        of: &Crop,
        axis: usize,
        side: usize,
        first: usize,
    ) -> (Vec<u32>, Range<usize>) {
        let scale = of.length[axis] / side as f64;
        let mut taps = Vec::with_capacity(3 * side);
        for at in 0..side {
            let at = if of.flip && axis == 0 {
                side - 1 - at
            } else {
                at
            };
            let center = of.from[axis] + (at as f64 + 0.5) * scale;
            let before = self.weights.len();
            let start = add_taps(center, scale.max(1.0), of.size[axis], &mut self.weights);
            taps.extend([start, before, self.weights.len() - before].map(|v| v as u32));
        }
        let each = taps.chunks_exact(3);
        let start = each.clone().map(|tap| tap[0]).min().unwrap_or(0);
        let end = each.map(|tap| tap[0] + tap[2]).max().unwrap_or(0);
        for tap in taps.chunks_exact_mut(3) {
            tap[0] = tap[0] - start + first as u32;
        }
        (taps, start as usize..end as usize)
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
        read(
            "pixels",
            Dtype::U8,
            tables.regions.iter().map(Region::bytes).sum(),
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pixels of the box for one of the result: the filter reads 4 pixels on each side of a centre.
    #[test]
    fn only_the_pixels_that_a_crop_reads_are_in_its_region() {
        let of = Crop {
            size: [40, 30],
            from: [10.0, 8.0],
            length: [8.0, 6.0],
            flip: true,
        };
        let tables = Tables::of(&[of, Crop { flip: false, ..of }], 4);
        let [first, second] = &tables.regions[..] else {
            panic!("{:?}", tables.regions);
        };
        assert_eq!(first, second);
        assert_eq!((first.columns.clone(), first.rows.clone()), (7..21, 6..16));
        let rgb: Vec<u8> = (0..40 * 30 * 3_usize).map(|at| (at % 251) as u8).collect();
        let found: Vec<u8> = first.pieces(&rgb).flatten().copied().collect();
        let expected = (6..16).flat_map(|y| &rgb[3 * (40 * y + 7)..3 * (40 * y + 21)]);
        assert!(expected.copied().eq(found.iter().copied()) && found.len() == first.bytes());
        let starts: Vec<u64> = (0..20).map(|row| row * 3 * 14).collect();
        assert_eq!(tables.row_at, starts);
        let whole = Region {
            width: 40,
            rows: 2..5,
            columns: 0..40,
        };
        let pieces: Vec<&[u8]> = whole.pieces(&rgb).collect();
        assert_eq!(pieces, [&rgb[3 * 80..3 * 200]]);
    }
}
