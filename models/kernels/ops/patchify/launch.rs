//! Launches of `patchify.cu`.

use super::cpu::Order;
use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, Result, THREADS, WARPS, blocks, expect, module, product,
    read, size, update, write,
};

fn source() -> Module {
    module("patchify", include_str!("patchify.cu"), &[])
}

/// Images to split into patches.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    /// Number of images.
    pub batch: usize,
    /// Side of an image, pixels.
    pub side: usize,
    /// Side of a patch, pixels.
    pub patch: usize,
    /// Order of the numbers in a patch.
    pub order: Order,
}

impl Images {
    fn check(self) -> Result<()> {
        let fits = self.patch > 0 && self.side.is_multiple_of(self.patch);
        expect(fits, "patchify", "side", self.side, "a multiple of patch")
    }

    fn dim(self) -> usize {
        3 * self.patch * self.patch
    }

    fn numbers(self) -> Result<usize> {
        product("images", &[self.batch, 3, self.side, self.side])
    }

    /// Returns the last arguments of both kernels, and the grid.
    fn rest(self, float: Float, rows: usize) -> Result<(Vec<Arg>, u32)> {
        let out = product("out", &[rows, self.dim()])?;
        let args = vec![
            write("out", float.dtype(), out),
            Arg::U32("rows", size("rows", rows)?),
            Arg::U32("side", size("side", self.side)?),
            Arg::U32("patch", size("patch", self.patch)?),
            Arg::U32("channel_last", u32::from(self.order == Order::ChannelLast)),
        ];
        Ok((args, blocks(out as u64, THREADS)?))
    }
}

/// Copies patches `keep` `[rows]` of f32 `images` `[batch, 3, side, side]` to `out`.
///
/// # Errors
/// If the side is not a multiple of the patch side or a size exceeds 31 bits.
pub fn from_floats(float: Float, images: Images, rows: usize) -> Result<Launch> {
    images.check()?;
    let (rest, grid) = images.rest(float, rows)?;
    let mut args = vec![
        read("images", Dtype::F32, images.numbers()?),
        read("keep", Dtype::U32, rows),
    ];
    args.extend(rest);
    Ok(Launch::new(source(), float.of("patchify"), grid, args))
}

/// Copies patches `keep` `[rows]` of u8 `images` `[batch, side, side, 3]` to `out`, as `(value / 255 - mean) / std` with `mean` and `std`
/// `[3]`.
///
/// # Errors
/// As for [`from_floats`].
pub fn from_bytes(float: Float, images: Images, rows: usize) -> Result<Launch> {
    images.check()?;
    let (rest, grid) = images.rest(float, rows)?;
    let mut args = vec![
        read("images", Dtype::U8, images.numbers()?),
        read("keep", Dtype::U32, rows),
        read("mean", Dtype::F32, 3),
        read("std", Dtype::F32, 3),
    ];
    args.extend(rest);
    Ok(Launch::new(source(), float.of("patchify_u8"), grid, args))
}

/// Normalises rows of `values` `[rows, dim]` to mean 0 and unbiased variance 1, in place.
///
/// # Errors
/// If `dim` is below 2 or a size exceeds 31 bits.
pub fn normalize(rows: usize, dim: usize) -> Result<Launch> {
    expect(dim > 1, "normalize-rows", "dim", dim, "at least 2")?;
    let args = vec![
        update("values", Dtype::F32, product("values", &[rows, dim])?),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(rows as u64, WARPS)?;
    Ok(Launch::new(source(), "normalize_rows_f32", grid, args))
}
