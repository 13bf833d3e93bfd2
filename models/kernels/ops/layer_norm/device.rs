//! Layer norm on a device, without a graph: from f32 or bf16 to bf16.

use super::launch;
use crate::device::launch::Float;
use crate::device::launcher::{Device, Memory, Result};
use crate::ops::linear::device::{Sum, add_up};
use crate::ops::linear::launch::parts;

/// Returns the norm of `x` `[rows, dim]` in f32 or bf16; `weight` and `bias` `[dim]` are f32.
///
/// # Errors
/// Errors of the device.
pub fn forward(
    device: &Device,
    x: &Memory,
    [weight, bias]: [&Memory; 2],
    eps: f32,
) -> Result<Memory> {
    let dim = weight.len();
    let launch = launch::forward([x.float(), Float::Bf16], x.len() / dim, dim, eps)?;
    let given = [("x", x), ("weight", weight), ("bias", bias)];
    let [y] = device.run_all(&[launch], &given, ["y"])?;
    Ok(y)
}

/// Returns the gradient of `x` plus `base`, if there is one, and computes those of weight and bias.
///
/// # Errors
/// Errors of the device.
pub fn backward(
    device: &Device,
    [x, weight, grad]: [&Memory; 3],
    base: Option<&Memory>,
    eps: f32,
    [dweight, dbias]: [Sum<'_>; 2],
) -> Result<Memory> {
    let dim = weight.len();
    let rows = x.len() / dim;
    let floats = [x.float(), Float::Bf16];
    let launch = launch::partial_backward(floats, rows, dim, eps, base.is_some())?;
    let mut given = vec![("x", x), ("weight", weight), ("grad", grad)];
    given.extend(base.map(|base| ("base", base)));
    let wanted = ["dx", "dweights", "dbiases"];
    let [dx, weights, biases] = device.run_all(&[launch], &given, wanted)?;
    add_up(device, &weights, parts(rows), dim, dweight)?;
    add_up(device, &biases, parts(rows), dim, dbias)?;
    Ok(dx)
}
