//! Launches of `bias_gelu.cu`.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, Result, THREADS, blocks, expect, module, product, read,
    size, width, write,
};
use crate::ops::linear::launch::{column_blocks, part_rows, parts};

fn source() -> Module {
    module("bias_gelu", include_str!("bias_gelu.cu"), &[])
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
    let grid = blocks((all / width(dim)) as u64, THREADS)?;
    Ok(Launch::new(source(), kernel, grid, args))
}

/// Computes `dx` and `partial` `[parts, dim]`, whose sum is the bias's gradient, from `x`, `bias` and the output's gradient `grad`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn backward(float: Float, rows: usize, dim: usize) -> Result<Launch> {
    expect(dim > 0, "bias-gelu", "dim", dim, "at least 1")?;
    expect(rows > 0, "bias-gelu", "rows", rows, "at least 1")?;
    let all = product("x", &[rows, dim])?;
    let partial = product("partial", &[parts(rows), dim])?;
    let args = vec![
        read("x", float.dtype(), all),
        read("bias", Dtype::F32, dim),
        read("grad", float.dtype(), all),
        write("dx", float.dtype(), all),
        write("partial", Dtype::F32, partial),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
        part_rows(rows)?,
    ];
    let kernel = float.of("bias_gelu_backward");
    Ok(Launch::new(
        source(),
        kernel,
        column_blocks(rows, dim)?,
        args,
    ))
}
