//! Gathering and restoring rows on a GPU.

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result, Tensor};

use super::launch;
use crate::device::cuda::ops::{Given, Numbers, float, run, run_on};
use crate::device::launch::NONE;
use crate::ops::linear::launch::column_sums_of;

/// Returns rows `index` of `x`.
pub fn gather(x: Given<'_>, index: &[u32]) -> Result<CudaStorage> {
    let (rows, dim) = x.2.shape().dims2()?;
    let float = float(x.1.dtype())?;
    let launch = launch::gather(float, rows, index.len(), dim).map_err(Error::wrap)?;
    let [out] = run(&[launch], &[x], &[("from", Numbers::U32(index))], ["out"])?;
    Ok(out)
}

/// Returns a tensor like `x` with `grad` in the rows `index` and zeros elsewhere.
pub fn scatter(x: &Tensor, grad: &Tensor, index: &[u32], rows: usize) -> Result<Tensor> {
    let dim = x.elem_count() / rows;
    let from = launch::inverse(index, rows);
    let grad_rows = grad.elem_count() / dim;
    let launch = launch::gather(float(x.dtype())?, grad_rows, rows, dim).map_err(Error::wrap)?;
    let wanted = [("out", x.shape().clone())];
    let [out] = run_on(
        &[launch],
        &[("x", grad)],
        &[("from", Numbers::U32(&from))],
        wanted,
    )?;
    Ok(out)
}

/// Returns `[batch, 1 + patches, dim]` for tokens `[batch, tokens, dim]` and the mask token.
pub fn restore(x: Given<'_>, mask: Given<'_>, restore: &[u32]) -> Result<CudaStorage> {
    let (batch, tokens, dim) = x.2.shape().dims3()?;
    let from = launch::restored(restore, batch, tokens);
    let float = float(x.1.dtype())?;
    let launch = launch::restore(float, batch * tokens, from.len(), dim).map_err(Error::wrap)?;
    let [out] = run(
        &[launch],
        &[x, mask],
        &[("from", Numbers::U32(&from))],
        ["out"],
    )?;
    Ok(out)
}

/// Returns the gradients of the tokens and the mask token.
pub fn restore_backward(
    x: &Tensor,
    mask: &Tensor,
    grad: &Tensor,
    restore: &[u32],
) -> Result<[Tensor; 2]> {
    let (batch, tokens, dim) = x.dims3()?;
    let from = launch::restored(restore, batch, tokens);
    let dx = scatter(x, grad, &from, batch * tokens)?;
    let filled = (0..from.len() as u32).filter(|row| from[*row as usize] == NONE);
    let filled: Vec<u32> = filled.collect();
    if filled.is_empty() {
        return Ok([dx, mask.zeros_like()?]);
    }
    let float = float(grad.dtype())?;
    let launches = column_sums_of(float, from.len(), filled.len(), dim, "dmask");
    let wanted = [("dmask", mask.shape().clone())];
    let launches = launches.map_err(Error::wrap)?;
    let [dmask] = run_on(
        &launches,
        &[("x", grad)],
        &[("list", Numbers::U32(&filled))],
        wanted,
    )?;
    Ok([dx, dmask.to_dtype(mask.dtype())?])
}
