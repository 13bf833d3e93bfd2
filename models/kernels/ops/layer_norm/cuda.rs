//! Layer norm on a GPU.

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::CudaStorage;
use candle_core::{D, Error, Result, Shape, Tensor};

use super::launch;
use crate::device::cuda::ops::{Given, float, run, run_on};

/// Returns the output of `x`, `weight` and `bias`.
pub fn forward(given: [Given<'_>; 3], eps: f32) -> Result<CudaStorage> {
    let (_, x, layout) = given[0];
    let (dim, all) = (given[1].2.shape().elem_count(), layout.shape().elem_count());
    let launch =
        launch::forward([float(x.dtype())?; 2], all / dim, dim, eps).map_err(Error::wrap)?;
    let [y] = run(&[launch], &given, &[], ["y"])?;
    Ok(y)
}

/// Returns the gradients of `x`, weight and bias.
pub fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor, eps: f32) -> Result<[Tensor; 3]> {
    let dim = x.dim(D::Minus1)?;
    let rows = x.elem_count() / dim;
    let launches = launch::backward(float(x.dtype())?, rows, dim, eps).map_err(Error::wrap)?;
    let given = [("x", x), ("weight", weight), ("grad", grad)];
    let vector = Shape::from(dim);
    let wanted = [
        ("dx", x.shape().clone()),
        ("dweight", vector.clone()),
        ("dbias", vector),
    ];
    run_on(&launches, &given, &[], wanted)
}
