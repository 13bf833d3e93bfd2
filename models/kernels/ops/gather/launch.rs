//! Launches of `gather.cu` and their index lists.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, NONE, Result, WARPS, blocks, module, product, read, size,
    write,
};

fn source() -> Module {
    module("gather", include_str!("gather.cu"), &[])
}

/// Returns for each of `rows` rows its position in `index` (rows, each at most once, or [`NONE`]) or [`NONE`]. A gather by the result
/// undoes a gather by `index` and is its gradient.
pub fn inverse(index: &[u32], rows: usize) -> Vec<u32> {
    let mut from = vec![NONE; rows];
    for (place, row) in (0..).zip(index).filter(|(_, row)| **row != NONE) {
        from[*row as usize] = place;
    }
    from
}

/// Returns for each row of the decoder's input its row among `[batch * tokens]` encoded tokens, or [`NONE`] for the mask token.
/// `restore` is that of `restore_patches`.
pub fn restored(restore: &[u32], batch: usize, tokens: usize) -> Vec<u32> {
    let patches = restore.len() / batch.max(1);
    let mut from = Vec::with_capacity(batch + restore.len());
    for (image, places) in (0..batch).zip(restore.chunks(patches.max(1))) {
        let first = (image * tokens) as u32;
        from.push(first);
        let row = |place: &u32| {
            let kept = 1 + (*place as usize) < tokens;
            if kept { first + 1 + place } else { NONE }
        };
        from.extend(places.iter().map(row));
    }
    from
}

/// Copies rows `from` `[rows]` of `x` `[x_rows, dim]` to `out` `[rows, dim]`, with zeros for [`NONE`].
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn gather(float: Float, x_rows: usize, rows: usize, dim: usize) -> Result<Launch> {
    launch(float, "gather_rows", false, x_rows, rows, dim)
}

/// Does the same with `fill` `[dim]` for [`NONE`].
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn restore(float: Float, x_rows: usize, rows: usize, dim: usize) -> Result<Launch> {
    launch(float, "restore_rows", true, x_rows, rows, dim)
}

/// Copies rows `from` `[rows]` of `x` `[x_rows, dim]`, or `fill` `[dim]` for [`NONE`], plus rows `place` `[rows]` of `positions`
/// `[positions, dim]`, to `out`. `x` is bf16, `fill` and `positions` are f32, and `out` has the type `out`.
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn place(
    out: Float,
    x_rows: usize,
    rows: usize,
    positions: usize,
    dim: usize,
) -> Result<Launch> {
    let args = vec![
        read("x", Dtype::Bf16, product("x", &[x_rows, dim])?),
        read("from", Dtype::U32, rows),
        read("fill", Dtype::F32, dim),
        read(
            "positions",
            Dtype::F32,
            product("positions", &[positions, dim])?,
        ),
        read("place", Dtype::U32, rows),
        write("out", out.dtype(), product("out", &[rows, dim])?),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    size("rows of x", x_rows)?;
    let grid = blocks(rows as u64, WARPS)?;
    Ok(Launch::new(source(), out.of("place_rows"), grid, args))
}

fn launch(
    float: Float,
    kernel: &str,
    fill: bool,
    x_rows: usize,
    rows: usize,
    dim: usize,
) -> Result<Launch> {
    let float_type = float.dtype();
    let mut args = vec![
        read("x", float_type, product("x", &[x_rows, dim])?),
        read("from", Dtype::U32, rows),
    ];
    if fill {
        args.push(read("fill", float_type, dim));
    }
    args.extend([
        write("out", float_type, product("out", &[rows, dim])?),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ]);
    size("rows of x", x_rows)?;
    let grid = blocks(rows as u64, WARPS)?;
    Ok(Launch::new(source(), float.of(kernel), grid, args))
}
