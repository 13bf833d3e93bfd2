//! Launches of `gather.cu`, and the lists that they go by.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, NONE, Result, WARPS, blocks, module, product, read, size,
    write,
};

fn source() -> Module {
    module("gather", include_str!("gather.cu"), &[])
}

/// For each of `rows` rows, its place in `index` (rows, each at most once, or [`NONE`]) or [`NONE`]: a gather by it undoes a gather
/// by `index`, which is also its gradient.
pub fn inverse(index: &[u32], rows: usize) -> Vec<u32> {
    let mut from = vec![NONE; rows];
    for (place, row) in (0..).zip(index).filter(|(_, row)| **row != NONE) {
        from[*row as usize] = place;
    }
    from
}

/// For each row of the decoder's input, the row of `[batch * tokens]` encoded tokens that it takes, or [`NONE`] for the mask token:
/// `restore` as `restore_patches` has it.
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

/// Rows `from` `[rows]` of `x` `[x_rows, dim]` to `out` `[rows, dim]`, zeros for [`NONE`].
///
/// # Errors
/// When a size is beyond 31 bits.
pub fn gather(float: Float, x_rows: usize, rows: usize, dim: usize) -> Result<Launch> {
    launch(float, "gather_rows", false, x_rows, rows, dim)
}

/// The same, `fill` `[dim]` for [`NONE`].
///
/// # Errors
/// When a size is beyond 31 bits.
pub fn restore(float: Float, x_rows: usize, rows: usize, dim: usize) -> Result<Launch> {
    launch(float, "restore_rows", true, x_rows, rows, dim)
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
