//! Cross-entropy in bf16 on a device, without a graph.

use super::launch;
use crate::device::launch::Float;
use crate::device::launcher::{Device, Memory, Result};

/// Computes the mean loss of `scores` `[rows, classes]` for `ids` `[rows]`, all below `classes`, into `loss` `[1]`. Returns the gradient of
/// the scores, times `upstream` `[1]`.
///
/// # Errors
/// Errors of the device.
pub fn cross_entropy(
    device: &Device,
    scores: &Memory,
    [ids, upstream]: [&Memory; 2],
    smoothing: f32,
    loss: &Memory,
) -> Result<Memory> {
    let (rows, float) = (ids.len(), Float::Bf16);
    let classes = scores.len() / rows.max(1);
    let [each, mean] = launch::forward(float, rows, classes, smoothing)?;
    let backward = launch::backward(float, rows, classes, smoothing)?;
    let given = [
        ("scores", scores),
        ("ids", ids),
        ("upstream", upstream),
        ("loss", loss),
    ];
    let [dscores] = device.run_all(&[each, mean, backward], &given, ["dscores"])?;
    Ok(dscores)
}
