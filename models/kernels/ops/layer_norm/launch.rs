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

/// Returns the name of `kernel` for the types of `x` and of the other activations.
fn named(kernel: &str, [x, others]: [Float; 2]) -> String {
    match x == others {
        true => x.of(kernel),
        false => others.of(&x.of(kernel)),
    }
}

/// Computes `y` from `x` `[rows, dim]`, `weight` and `bias` `[dim]`. `floats` are the types of `x` and `y`: equal, or f32 and bf16.
///
/// # Errors
/// If `dim` is 0 or a size exceeds 31 bits.
pub fn forward(floats: [Float; 2], rows: usize, dim: usize, eps: f32) -> Result<Launch> {
    let (all, [x, y]) = (product("x", &[rows, dim])?, floats.map(Float::dtype));
    let args = vec![
        read("x", x, all),
        read("weight", Dtype::F32, dim),
        read("bias", Dtype::F32, dim),
        write("y", y, all),
        Arg::F32("eps", eps),
        Arg::U32("rows", size("rows", rows)?),
    ];
    let kernel = named("layer_norm_forward", floats);
    let grid = blocks(rows as u64, WARPS)?;
    Ok(Launch::new(source(dim)?, kernel, grid, args))
}

/// Computes `dx`, and the partial sums `dweights` and `dbiases` `[parts, dim]` of the parameters' gradients, from `x`, `weight` and the
/// output's gradient `grad`. With `add`, `dx` is that gradient plus `base`. `floats` are the types of `x` and of the gradients: equal, or
/// f32 and bf16.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn partial_backward(
    floats: [Float; 2],
    rows: usize,
    dim: usize,
    eps: f32,
    add: bool,
) -> Result<Launch> {
    expect(rows > 0, "layer-norm", "rows", rows, "at least 1")?;
    let (all, [x, grad]) = (product("x", &[rows, dim])?, floats.map(Float::dtype));
    let mut args = vec![
        read("x", x, all),
        read("weight", Dtype::F32, dim),
        read("grad", grad, all),
    ];
    if add {
        args.push(read("base", grad, all));
    }
    let partial = product("partial", &[parts(rows), dim])?;
    args.extend([
        write("dx", grad, all),
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
    Ok(Launch::new(source(dim)?, named(kernel, floats), grid, args))
}

/// Computes `dx`, `dweight` and `dbias` `[dim]` from `x`, `weight` and the output's gradient `grad`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn backward(float: Float, rows: usize, dim: usize, eps: f32) -> Result<[Launch; 3]> {
    Ok([
        partial_backward([float; 2], rows, dim, eps, false)?,
        totals(parts(rows), dim, ["dweights", "dweight"], false)?,
        totals(parts(rows), dim, ["dbiases", "dbias"], false)?,
    ])
}
