//! Cross-entropy on a GPU.

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result, Tensor};

use super::launch;
use crate::device::cuda::ops::{Given, Numbers, float, run, run_on};

/// Returns the mean loss.
pub fn forward(scores: Given<'_>, ids: &[u32], smoothing: f32) -> Result<CudaStorage> {
    let (rows, classes) = scores.2.shape().dims2()?;
    let float = float(scores.1.dtype())?;
    let launches = launch::forward(float, rows, classes, smoothing).map_err(Error::wrap)?;
    let [loss] = run(
        &launches,
        &[scores],
        &[("ids", Numbers::U32(ids))],
        ["loss"],
    )?;
    Ok(loss)
}

/// Returns the gradient of the scores. Recomputes the rows' totals.
pub fn backward(scores: &Tensor, ids: &[u32], smoothing: f32, grad: &Tensor) -> Result<Tensor> {
    let (rows, classes) = scores.dims2()?;
    let float = float(scores.dtype())?;
    let forward = launch::forward(float, rows, classes, smoothing).map_err(Error::wrap)?;
    let backward = launch::backward(float, rows, classes, smoothing).map_err(Error::wrap)?;
    let [each, _] = forward;
    let given = [("scores", scores), ("upstream", grad)];
    let wanted = [("dscores", scores.shape().clone())];
    let [dscores] = run_on(
        &[each, backward],
        &given,
        &[("ids", Numbers::U32(ids))],
        wanted,
    )?;
    Ok(dscores)
}
