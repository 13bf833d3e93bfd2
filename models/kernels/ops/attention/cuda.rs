//! Attention on a GPU in bf16.

use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result, Tensor};

use super::{cpu::Sizes, launch};
use crate::device::cuda::ops::{Given, run, run_on};

/// Returns the output of `qkv`.
pub fn forward(qkv: Given<'_>, sizes: Sizes) -> Result<CudaStorage> {
    let launch = launch::forward(sizes).map_err(Error::wrap)?;
    let [out] = run(&[launch], &[qkv], &[], ["out"])?;
    Ok(out)
}

/// Returns the gradient of `qkv`. Runs the forward again for its statistics.
pub fn backward(qkv: &Tensor, grad: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let mut launches = vec![launch::forward(sizes).map_err(Error::wrap)?];
    launches.extend(launch::backward(sizes).map_err(Error::wrap)?);
    let given = [("qkv", qkv), ("dout", grad)];
    let [dqkv] = run_on(&launches, &given, &[], [("dqkv", qkv.shape().clone())])?;
    Ok(dqkv)
}
