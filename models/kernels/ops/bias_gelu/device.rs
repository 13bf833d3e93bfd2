//! Bias and GELU in bf16 on a device, without a graph.

use super::launch;
use crate::device::launch::Float;
use crate::device::launcher::{Device, Memory, Result};
use crate::ops::linear::device::{Sum, add_up};
use crate::ops::linear::launch::parts;

/// Returns the GELU of `x` `[rows, dim]` plus `bias` `[dim]`, which is f32.
///
/// # Errors
/// Errors of the device.
pub fn forward(device: &Device, x: &Memory, bias: &Memory) -> Result<Memory> {
    let dim = bias.len();
    let launch = launch::forward(Float::Bf16, x.len() / dim, dim)?;
    let [y] = device.run_all(&[launch], &[("x", x), ("bias", bias)], ["y"])?;
    Ok(y)
}

/// Returns the gradient of `x` and computes that of the bias.
///
/// # Errors
/// Errors of the device.
pub fn backward(device: &Device, [x, bias, grad]: [&Memory; 3], dbias: Sum<'_>) -> Result<Memory> {
    let dim = bias.len();
    let rows = x.len() / dim;
    let launch = launch::backward(Float::Bf16, rows, dim)?;
    let given = [("x", x), ("bias", bias), ("grad", grad)];
    let [dx, partial] = device.run_all(&[launch], &given, ["dx", "partial"])?;
    add_up(device, &partial, parts(rows), dim, dbias)?;
    Ok(dx)
}
