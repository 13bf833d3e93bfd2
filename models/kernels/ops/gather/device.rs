//! Copies of rows on a device, without a graph.

use super::launch;
use crate::device::launch::Float;
use crate::device::launcher::{Device, Memory, Result};

/// Returns the rows `from` of `x` `[rows, dim]` in f32 or bf16, with zeros for [`NONE`](crate::device::launch::NONE).
///
/// # Errors
/// Errors of the device.
pub fn gather(device: &Device, x: &Memory, from: &Memory, dim: usize) -> Result<Memory> {
    let launch = launch::gather(x.float(), x.len() / dim, from.len(), dim)?;
    let [out] = device.run_all(&[launch], &[("x", x), ("from", from)], ["out"])?;
    Ok(out)
}

/// Returns the rows `from` of `x`, or `fill` for [`NONE`](crate::device::launch::NONE), plus the rows `place` of `positions`. `fill` and
/// `positions` are f32, `x` is bf16, and the result has the type `out`.
///
/// # Errors
/// Errors of the device.
pub fn place(
    device: &Device,
    [x, from, fill]: [&Memory; 3],
    [positions, place]: [&Memory; 2],
    out: Float,
) -> Result<Memory> {
    let dim = fill.len();
    let rows = [x.len() / dim, from.len(), positions.len() / dim];
    let launch = launch::place(out, rows[0], rows[1], rows[2], dim)?;
    let given = [
        ("x", x),
        ("from", from),
        ("fill", fill),
        ("positions", positions),
        ("place", place),
    ];
    let [out] = device.run_all(&[launch], &given, ["out"])?;
    Ok(out)
}
