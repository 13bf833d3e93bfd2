//! Launches of `squared_error.cu`.

use crate::device::launch::{
    Arg, Dtype, Launch, Result, WARPS, blocks, expect, module, product, read, size, write,
};
use crate::ops::cross_entropy::launch::mean;

/// Computes `dscores` and `loss` `[1]` from `scores` `[count, dim]`, `rows` `[count]` of `values` `[values]` and `upstream` `[1]`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn squared_error(dim: usize, count: usize, values: usize) -> Result<[Launch; 2]> {
    expect(dim > 0, "squared-error", "dim", dim, "at least 1")?;
    expect(count > 0, "squared-error", "rows", count, "at least 1")?;
    let all = product("scores", &[count, dim])?;
    let args = vec![
        read("scores", Dtype::Bf16, all),
        read("values", Dtype::F32, values),
        read("rows", Dtype::U32, count),
        read("upstream", Dtype::F32, 1),
        write("dscores", Dtype::Bf16, all),
        write("losses", Dtype::F32, count),
        Arg::U32("count", size("rows", count)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let module = module("squared_error", include_str!("squared_error.cu"), &[]);
    let grid = blocks(count as u64, WARPS)?;
    Ok([
        Launch::new(module, "squared_error_bf16", grid, args),
        mean(count)?,
    ])
}
