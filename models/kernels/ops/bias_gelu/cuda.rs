//! Bias and GELU on a GPU.

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result, Tensor};

use super::launch;
use crate::device::cuda::ops::{Given, float, run, run_on};
use crate::ops::linear::launch::{parts, totals};

/// Returns the output of `x` and `bias`.
pub fn forward(given: [Given<'_>; 2]) -> Result<CudaStorage> {
    let (_, x, layout) = given[0];
    let (dim, all) = (given[1].2.shape().elem_count(), layout.shape().elem_count());
    let launch = launch::forward(float(x.dtype())?, all / dim, dim).map_err(Error::wrap)?;
    let [y] = run(&[launch], &given, &[], ["y"])?;
    Ok(y)
}

/// Returns the gradients of `x` and the bias.
pub fn backward(x: &Tensor, bias: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]> {
    let dim = bias.elem_count();
    let rows = x.elem_count() / dim;
    let first = launch::backward(float(x.dtype())?, rows, dim).map_err(Error::wrap)?;
    let sums = totals(parts(rows), dim, ["partial", "dbias"], false).map_err(Error::wrap)?;
    let given = [("x", x), ("bias", bias), ("grad", grad)];
    let wanted = [("dx", x.shape().clone()), ("dbias", bias.shape().clone())];
    run_on(&[first, sums], &given, &[], wanted)
}
