//! Launches of `cross_entropy.cu`.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, Result, expect, module, product, read, size, write,
};

fn source() -> Module {
    module("cross_entropy", include_str!("cross_entropy.cu"), &[])
}

/// Computes `log_total` and `losses` `[rows]` and `loss` `[1]` from `scores` `[rows, classes]` and `ids` `[rows]`, all below `classes`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn forward(float: Float, rows: usize, classes: usize, smoothing: f32) -> Result<[Launch; 2]> {
    check(rows, classes)?;
    let count = size("rows", rows)?;
    let args = vec![
        read(
            "scores",
            float.dtype(),
            product("scores", &[rows, classes])?,
        ),
        read("ids", Dtype::U32, rows),
        write("log_total", Dtype::F32, rows),
        write("losses", Dtype::F32, rows),
        Arg::F32("smoothing", smoothing),
        Arg::U32("classes", size("classes", classes)?),
    ];
    let each = Launch::new(source(), float.of("cross_entropy_forward"), count, args);
    Ok([each, mean(rows)?])
}

/// Computes `loss` `[1]`, the mean of `losses` `[rows]`.
///
/// # Errors
/// If the size exceeds 31 bits.
pub fn mean(rows: usize) -> Result<Launch> {
    let args = vec![
        read("losses", Dtype::F32, rows),
        write("loss", Dtype::F32, 1),
        Arg::U32("rows", size("rows", rows)?),
    ];
    Ok(Launch::new(source(), "cross_entropy_mean", 1, args))
}

/// Computes `dscores` from `scores`, `ids`, the forward's `log_total` and the loss's gradient `upstream` `[1]`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn backward(float: Float, rows: usize, classes: usize, smoothing: f32) -> Result<Launch> {
    check(rows, classes)?;
    let (count, all) = (size("rows", rows)?, product("scores", &[rows, classes])?);
    let args = vec![
        read("scores", float.dtype(), all),
        read("ids", Dtype::U32, rows),
        read("log_total", Dtype::F32, rows),
        read("upstream", Dtype::F32, 1),
        write("dscores", float.dtype(), all),
        Arg::F32("smoothing", smoothing),
        Arg::U32("rows", count),
        Arg::U32("classes", size("classes", classes)?),
    ];
    let kernel = float.of("cross_entropy_backward");
    Ok(Launch::new(source(), kernel, count, args))
}

fn check(rows: usize, classes: usize) -> Result<()> {
    expect(rows > 0, "cross-entropy", "rows", rows, "at least 1")?;
    expect(
        classes > 0,
        "cross-entropy",
        "classes",
        classes,
        "at least 1",
    )
}
