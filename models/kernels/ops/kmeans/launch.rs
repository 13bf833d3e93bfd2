//! Launches of `kmeans.cu`.

use crate::device::launch::{
    Arg, Dtype, Launch, Module, Result, THREADS, WARPS, blocks, expect, module, product, read,
    size, update, write,
};

/// Rows and centres of a block's tile, and the dimensions that it holds at a time.
const ROWS: u32 = 128;
const CENTERS: u32 = 64;
const DEPTH: u32 = 16;
/// Rows per run, for which [`runs`] returns results.
pub const RUN: usize = 48;
/// Maximum number of blocks that search for the largest number, so that each has enough work.
const LARGEST_BLOCKS: u32 = 1024;

fn source() -> Module {
    let constants = [
        ("ROWS", ROWS),
        ("CENTERS", CENTERS),
        ("DEPTH", DEPTH),
        ("RUN", RUN as u32),
    ];
    module("kmeans", include_str!("kmeans.cu"), &constants)
}

fn check(k: usize, dim: usize) -> Result<()> {
    expect(k > 0, "k-means", "k", k, "at least 1")?;
    expect(dim > 0, "k-means", "dim", dim, "at least 1")
}

/// Computes `id` and `best` `[n]` from `rows` `[n, dim]`, `centers` `[k, dim]` and `bias` `[k]`.
///
/// # Errors
/// If `k` or `dim` is 0 or a size exceeds 31 bits.
pub fn assign(n: usize, k: usize, dim: usize) -> Result<Launch> {
    check(k, dim)?;
    let args = vec![
        read("rows", Dtype::F32, product("rows", &[n, dim])?),
        read("centers", Dtype::F32, product("centers", &[k, dim])?),
        read("bias", Dtype::F32, k),
        write("id", Dtype::U32, n),
        write("best", Dtype::F32, n),
        Arg::U32("n", size("n", n)?),
        Arg::U32("k", size("k", k)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(n as u64, ROWS)?;
    Ok(Launch::new(source(), "kmeans_assign", grid, args))
}

/// Computes the `bias` `[k]` for Euclidean distances from `centers` `[k, dim]`.
///
/// # Errors
/// As for [`assign`].
pub fn bias(k: usize, dim: usize) -> Result<Launch> {
    check(k, dim)?;
    let args = vec![
        read("centers", Dtype::F32, product("centers", &[k, dim])?),
        write("bias", Dtype::F32, k),
        Arg::U32("k", size("k", k)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(k as u64, WARPS)?;
    Ok(Launch::new(source(), "kmeans_bias", grid, args))
}

/// Adds `rows` `[n, dim]` times `scale` to `sums` `[k, dim]`, and their number to `counts` `[k]`, by `id` `[n]`.
///
/// # Errors
/// As for [`assign`].
pub fn accumulate(n: usize, k: usize, dim: usize, scale: f32) -> Result<Launch> {
    check(k, dim)?;
    let args = vec![
        read("rows", Dtype::F32, product("rows", &[n, dim])?),
        read("id", Dtype::U32, n),
        update("sums", Dtype::I64, product("sums", &[k, dim])?),
        update("counts", Dtype::U64, k),
        Arg::F32("scale", scale),
        Arg::U32("n", size("n", n)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(n as u64, WARPS)?;
    Ok(Launch::new(source(), "kmeans_update", grid, args))
}

/// Summarises `rows` `[n, dim]` and their `best` scores `[n]` by runs of [`RUN`] rows: `squares`, `inertia`, `far`, `far_row` and
/// `failed` (`n` if no row failed).
///
/// # Errors
/// As for [`assign`].
pub fn runs(n: usize, dim: usize) -> Result<Launch> {
    check(1, dim)?;
    let runs = n.div_ceil(RUN);
    let args = vec![
        read("rows", Dtype::F32, product("rows", &[n, dim])?),
        read("best", Dtype::F32, n),
        write("squares", Dtype::F32, runs),
        write("inertia", Dtype::F32, runs),
        write("far", Dtype::F32, runs),
        write("far_row", Dtype::U32, runs),
        write("failed", Dtype::U32, runs),
        Arg::U32("n", size("n", n)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(n as u64, RUN as u32)?;
    Ok(Launch::new(source(), "kmeans_runs", grid, args))
}

/// Updates `largest` `[1]` with the largest magnitude in `rows` `[n, dim]`, as the bits of an f32.
///
/// # Errors
/// As for [`assign`].
pub fn largest(n: usize, dim: usize) -> Result<Launch> {
    check(1, dim)?;
    let all = product("rows", &[n, dim])?;
    let args = vec![
        read("rows", Dtype::F32, all),
        update("largest", Dtype::U32, 1),
        Arg::U32("n", size("n", n)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = (all as u64).div_ceil(u64::from(THREADS));
    let grid = grid.min(u64::from(LARGEST_BLOCKS)) as u32;
    Ok(Launch::new(source(), "kmeans_largest", grid, args))
}

/// Returns the largest power of two, from 2^-126 to 2^100, such that `n` scaled numbers of at most `largest` sum to less than 2^62. Each
/// number then adds an error of at most half a unit to a sum.
pub fn fixed_point_scale(largest: f32, n: usize) -> f32 {
    let bits = |value: f64| value.max(f64::MIN_POSITIVE).log2().ceil() as i32;
    let room = 62 - bits(f64::from(largest)) - bits(n.max(1) as f64);
    2.0_f32.powi(room.clamp(-126, 100))
}
