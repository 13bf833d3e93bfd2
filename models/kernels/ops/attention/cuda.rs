//! Attention on a GPU in bf16.

use candle_core::cuda_backend::CudaStorage;
use candle_core::op::BackpropOp;
use candle_core::{Error, Result, Storage, Tensor};

use super::{cpu::Sizes, launch};
use crate::device::cuda::ops::{Given, run, run_on};

/// Returns the output of `qkv` and the statistics `log_total` `[batch * heads, tokens]` f32, which the backward reads.
pub fn forward(qkv: Given<'_>, sizes: Sizes) -> Result<(CudaStorage, Tensor)> {
    let launch = launch::forward(sizes).map_err(Error::wrap)?;
    let [out, log_total] = run(&[launch], &[qkv], &[], ["out", "log_total"])?;
    let shape = (sizes.batch * sizes.heads, sizes.tokens);
    let storage = Storage::Cuda(log_total);
    let log_total = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
    Ok((out, log_total))
}

/// Returns the gradient of `qkv` from `(out, log_total)` of the forward and the output's gradient.
pub fn backward(
    qkv: &Tensor,
    (out, log_total): (&Tensor, &Tensor),
    grad: &Tensor,
    sizes: Sizes,
) -> Result<Tensor> {
    let launches = launch::backward(sizes).map_err(Error::wrap)?;
    let given = [
        ("qkv", qkv),
        ("out", out),
        ("log_total", log_total),
        ("dout", grad),
    ];
    let [dqkv] = run_on(&launches, &given, &[], [("dqkv", qkv.shape().clone())])?;
    Ok(dqkv)
}
