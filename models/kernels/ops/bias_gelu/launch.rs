//! Launches of `bias_gelu.cu`.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, Result, THREADS, blocks, expect, module, product, read,
    size, write,
};
use crate::ops::linear::launch::column_sums;

fn source() -> Module {
    module("bias_gelu", include_str!("bias_gelu.cu"), &[])
}

/// Returns the grid: one thread per four numbers if `dim` is a multiple of four, otherwise per number.
fn grid(rows: usize, dim: usize) -> Result<u32> {
    let width = if dim.is_multiple_of(4) { 4 } else { 1 };
    blocks(product("x", &[rows, dim])? as u64 / width, THREADS)
}

/// Computes `y` from `x` `[rows, dim]` and `bias` `[dim]`.
///
/// # Errors
/// If `dim` is 0 or a size exceeds 31 bits.
pub fn forward(float: Float, rows: usize, dim: usize) -> Result<Launch> {
    expect(dim > 0, "bias-gelu", "dim", dim, "at least 1")?;
    let all = product("x", &[rows, dim])?;
    let args = vec![
        read("x", float.dtype(), all),
        read("bias", Dtype::F32, dim),
        write("y", float.dtype(), all),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let kernel = float.of("bias_gelu_forward");
    Ok(Launch::new(source(), kernel, grid(rows, dim)?, args))
}

/// Computes `dx` and `dbias` `[dim]` from `x`, `bias` and the output's gradient `grad`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn backward(float: Float, rows: usize, dim: usize) -> Result<[Launch; 3]> {
    expect(dim > 0, "bias-gelu", "dim", dim, "at least 1")?;
    let all = product("x", &[rows, dim])?;
    let args = vec![
        read("x", float.dtype(), all),
        read("bias", Dtype::F32, dim),
        read("grad", float.dtype(), all),
        write("dx", float.dtype(), all),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let kernel = float.of("bias_gelu_backward");
    let first = Launch::new(source(), kernel, grid(rows, dim)?, args);
    let [mut partials, totals] = column_sums(float, rows, dim, "dbias")?;
    let slope = partials.args.remove(0).named("dx");
    partials.args.insert(0, slope);
    Ok([first, partials, totals])
}
