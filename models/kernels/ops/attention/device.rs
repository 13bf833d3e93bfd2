//! Attention in bf16 on a device, without a graph.

use super::{cpu::Sizes, launch};
use crate::device::launcher::{Device, Memory, Result};

/// Returns the output for `qkv` and the statistics that the backward reads.
///
/// # Errors
/// If the size of a head is not supported; errors of the device.
pub fn forward(device: &Device, qkv: &Memory, sizes: Sizes) -> Result<[Memory; 2]> {
    let launch = launch::forward(sizes)?;
    device.run_all(&[launch], &[("qkv", qkv)], ["out", "log_total"])
}

/// Returns the gradient of `qkv` from output and statistics of the forward and the output's gradient.
///
/// # Errors
/// As for [`forward`].
pub fn backward(
    device: &Device,
    [qkv, out, log_total, dout]: [&Memory; 4],
    sizes: Sizes,
) -> Result<Memory> {
    let launches = launch::backward(sizes)?;
    let given = [
        ("qkv", qkv),
        ("out", out),
        ("log_total", log_total),
        ("dout", dout),
    ];
    let [dqkv] = device.run_all(&launches, &given, ["dqkv"])?;
    Ok(dqkv)
}
