//! Launches of `layer_norm.cu`.

use crate::device::launch::Arg;
use crate::device::launch::{
    Dtype, Float, Launch, Module, Result, WARPS, blocks, expect, module, product, read, size, write,
};
use crate::ops::linear::launch::{COLUMN_ROWS, column_blocks, parts, totals};

fn source() -> Module {
    let constants = [("COLUMN_ROWS", COLUMN_ROWS)];
    module("layer_norm", include_str!("layer_norm.cu"), &constants)
}

/// Computes `y` from `x` `[rows, dim]`, `weight` and `bias` `[dim]`.
///
/// # Errors
/// If `dim` is 0 or a size exceeds 31 bits.
pub fn forward(float: Float, rows: usize, dim: usize, eps: f32) -> Result<Launch> {
    expect(dim > 0, "layer-norm", "dim", dim, "at least 1")?;
    let (all, float_type) = (product("x", &[rows, dim])?, float.dtype());
    let args = vec![
        read("x", float_type, all),
        read("weight", Dtype::F32, dim),
        read("bias", Dtype::F32, dim),
        write("y", float_type, all),
        Arg::F32("eps", eps),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(rows as u64, WARPS)?;
    Ok(Launch::new(
        source(),
        float.of("layer_norm_forward"),
        grid,
        args,
    ))
}

/// Computes `dx` and `dparameters` `[2, dim]` (weight, then bias) from `x`, `weight` and the output's gradient `grad`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn backward(float: Float, rows: usize, dim: usize, eps: f32) -> Result<[Launch; 3]> {
    expect(dim > 0, "layer-norm", "dim", dim, "at least 1")?;
    expect(rows > 0, "layer-norm", "rows", rows, "at least 1")?;
    let (all, float_type) = (product("x", &[rows, dim])?, float.dtype());
    let sizes = [
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let mut args = vec![
        read("x", float_type, all),
        read("weight", Dtype::F32, dim),
        read("grad", float_type, all),
        write("dx", float_type, all),
        write("moments", Dtype::F32, 2 * rows),
        Arg::F32("eps", eps),
    ];
    args.extend(sizes.clone());
    let grid = blocks(rows as u64, WARPS)?;
    let of_x = Launch::new(source(), float.of("layer_norm_backward"), grid, args);
    let partial = product("partial", &[parts(rows), 2, dim])?;
    let mut args = vec![
        read("x", float_type, all),
        read("grad", float_type, all),
        read("moments", Dtype::F32, 2 * rows),
        write("partial", Dtype::F32, partial),
    ];
    args.extend(sizes);
    let grid = column_blocks(rows, dim)?;
    let columns = Launch::new(source(), float.of("layer_norm_columns"), grid, args);
    Ok([of_x, columns, totals(parts(rows), 2 * dim, "dparameters")?])
}
