//! `gelu(x + b)`, where `gelu(x) = x Phi(x)` with the exact error function, as in PyTorch's default.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

pub(super) use cpu::{backward, exp, forward};

use candle_core::backend::BackendStorage as _;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::values::{floats, read, stored, tensor_like};
use crate::product::Rounding;

/// Computes GELU (erf) of `x` plus a bias over the last dimension.
///
/// # Shapes
/// `x` `[..., dim]` f32 or bf16, `bias` `[dim]` f32; returns `[..., dim]` of `x`'s type.
///
/// # Errors
/// If an argument has another type or the dimensions differ.
pub fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.rank() != 1 || x.dims().last() != bias.dims().last() {
        candle_core::bail!("bias-gelu: x {:?}, bias {:?}", x.dims(), bias.dims());
    }
    x.contiguous()?.apply_op2(bias, BiasGelu)
}

struct BiasGelu;

impl CustomOp2 for BiasGelu {
    fn name(&self) -> &'static str {
        "bias-gelu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (dtype, x) = (x.dtype(), floats("bias-gelu", x, lx)?);
        let y = cpu::forward(&x, &floats("bias-gelu", bias, lb)?, Rounding::Exact);
        Ok((stored(y.into_exact(), dtype), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        bias: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let given = [("x", x, lx), ("bias", bias, lb)];
        Ok((cuda::forward(given)?, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, db] = cuda::backward(x, bias, &grad)?;
            return Ok((Some(dx), Some(db)));
        }
        let (xs, bs, mut dx) = (read(x)?, read(bias)?, read(&grad)?.to_vec());
        let (_, db) = cpu::backward(&xs, &bs, &mut dx, Rounding::Exact);
        Ok((Some(tensor_like(dx, x)?), Some(tensor_like(db, bias)?)))
    }
}
