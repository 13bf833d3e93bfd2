//! Layer norm over the last dimension, with gradients for input, weight and bias. Candle's fused layer norm has no backward and
//! computes the variance as `E[x^2] - E[x]^2`; this one takes two passes.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

pub(super) use cpu::{backward_add, forward};

use candle_core::backend::BackendStorage as _;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::values::{floats, read, stored, tensor_like};
use crate::product::Rounding;

/// Computes `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// # Shapes
/// `x` `[..., dim]` f32 or bf16, `weight` and `bias` `[dim]` f32; returns `[..., dim]` of `x`'s type.
///
/// # Errors
/// If an argument has another type or the dimensions differ.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    if x.dims().last() != weight.dims().last() || weight.dims() != bias.dims() {
        let dims = [x, weight, bias].map(Tensor::dims);
        candle_core::bail!("layer-norm: x, weight, bias {dims:?}");
    }
    x.contiguous()?.apply_op3(weight, bias, LayerNorm { eps })
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = floats("layer-norm", weight, lw)?;
        let bias = floats("layer-norm", bias, lb)?;
        let dtype = x.dtype();
        let x = floats("layer-norm", x, lx)?;
        let y = cpu::forward(&x, [&weight, &bias], self.eps, Rounding::Exact);
        Ok((stored(y.into_exact(), dtype), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        weight: &CudaStorage,
        lw: &Layout,
        bias: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let given = [("x", x, lx), ("weight", weight, lw), ("bias", bias, lb)];
        Ok((cuda::forward(given, self.eps)?, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dw, db] = cuda::backward(x, weight, &grad, self.eps)?;
            return Ok((Some(dx), Some(dw), Some(db)));
        }
        let (xs, ws, gs) = (read(x)?, read(weight)?, read(&grad)?);
        let [dx, dw, db] = cpu::backward(&xs, &ws, &gs, self.eps);
        Ok((
            Some(tensor_like(dx, x)?),
            Some(tensor_like(dw, weight)?),
            Some(tensor_like(db, weight)?),
        ))
    }
}
