//! Launches of `layer_norm.cu`.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, Result, WARPS, blocks, expect, module, product, read, size,
    write,
};
use crate::ops::linear::launch::{part_rows, parts, totals};

fn source(dim: usize) -> Result<Module> {
    expect(dim > 0, "layer-norm", "dim", dim, "at least 1")?;
    let constants = [("DIM", size("dim", dim)?)];
    Ok(module(
        "layer_norm",
        include_str!("layer_norm.cu"),
        &constants,
    ))
}

/// Computes `y` from `x` `[rows, dim]`, `weight` and `bias` `[dim]`.
///
/// # Errors
/// If `dim` is 0 or a size exceeds 31 bits.
pub fn forward(float: Float, rows: usize, dim: usize, eps: f32) -> Result<Launch> {
    let (all, float_type) = (product("x", &[rows, dim])?, float.dtype());
    let args = vec![
        read("x", float_type, all),
        read("weight", Dtype::F32, dim),
        read("bias", Dtype::F32, dim),
        write("y", float_type, all),
        Arg::F32("eps", eps),
        Arg::U32("rows", size("rows", rows)?),
    ];
    let (kernel, grid) = (float.of("layer_norm_forward"), blocks(rows as u64, WARPS)?);
    Ok(Launch::new(source(dim)?, kernel, grid, args))
}

/// Computes `dx`, and the partial sums `dweights` and `dbiases` `[parts, dim]` of the parameters' gradients, from `x`, `weight` and the
/// output's gradient `grad`. With `add`, `dx` is that gradient plus `base`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn partial_backward(
    float: Float,
    rows: usize,
    dim: usize,
    eps: f32,
    add: bool,
) -> Result<Launch> {
    expect(rows > 0, "layer-norm", "rows", rows, "at least 1")?;
    let (all, float_type) = (product("x", &[rows, dim])?, float.dtype());
    let mut args = vec![
        read("x", float_type, all),
        read("weight", Dtype::F32, dim),
        read("grad", float_type, all),
    ];
    if add {
        args.push(read("base", float_type, all));
    }
    let partial = product("partial", &[parts(rows), dim])?;
    args.extend([
        write("dx", float_type, all),
        write("dweight", Dtype::F32, partial).named("dweights"),
        write("dbias", Dtype::F32, partial).named("dbiases"),
        Arg::F32("eps", eps),
        Arg::U32("rows", size("rows", rows)?),
        part_rows(rows)?,
    ]);
    let kernel = match add {
        false => "layer_norm_backward",
        true => "layer_norm_backward_add",
    };
    let grid = size("the grid", parts(rows))?;
    Ok(Launch::new(source(dim)?, float.of(kernel), grid, args))
}

/// Computes `dx`, `dweight` and `dbias` `[dim]` from `x`, `weight` and the output's gradient `grad`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn backward(float: Float, rows: usize, dim: usize, eps: f32) -> Result<[Launch; 3]> {
    Ok([
        partial_backward(float, rows, dim, eps, false)?,
        totals(parts(rows), dim, ["dweights", "dweight"], false)?,
        totals(parts(rows), dim, ["dbiases", "dbias"], false)?,
    ])
}
