//! The mean squared error of predicted rows on a device, without a graph.

pub mod launch;

use crate::device::launcher::{Device, Memory, Result};

/// Computes the mean of the squared differences between `scores` `[count, dim]` in bf16 and the rows `rows` `[count]` of `values`
/// `[.., dim]` in f32 into `loss` `[1]`. Returns the gradient of the scores, times `upstream` `[1]`.
///
/// # Errors
/// Errors of the device.
pub fn squared_error(
    device: &Device,
    scores: &Memory,
    [values, rows, upstream]: [&Memory; 3],
    loss: &Memory,
) -> Result<Memory> {
    let launches =
        launch::squared_error(scores.len() / rows.len().max(1), rows.len(), values.len())?;
    let given = [
        ("scores", scores),
        ("values", values),
        ("rows", rows),
        ("upstream", upstream),
        ("loss", loss),
    ];
    let [dscores] = device.run_all(&launches, &given, ["dscores"])?;
    Ok(dscores)
}
