//! Softmax over the last dimension of `scale * x`, with a backward (Candle's `softmax_last_dim` has none).

mod cpu;
#[cfg(test)]
pub(super) mod reference;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

/// `softmax(scale * x)` over the last dimension.
///
/// # Shapes
/// `[..., dim]` to `[..., dim]`.
///
/// # Errors
/// When `x` is not f32.
pub fn softmax(x: &Tensor, scale: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax { scale })
}

struct Softmax {
    scale: f32,
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = super::values("softmax", x, layout)?.to_vec();
        let dim = layout.dims().last().copied().unwrap_or(1);
        y.chunks_exact_mut(dim)
            .for_each(|row| cpu::forward_row(row, self.scale));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = SoftmaxGrad { scale: self.scale };
        Ok(Some(
            y.detach()
                .contiguous()?
                .apply_op2_no_bwd(&grad.contiguous()?, &op)?,
        ))
    }
}

struct SoftmaxGrad {
    scale: f32,
}

impl CustomOp2 for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax-grad"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        ly: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = super::values("softmax-grad", y, ly)?;
        let mut out = super::values("softmax-grad", grad, lg)?.to_vec();
        let dim = ly.dims().last().copied().unwrap_or(1);
        for (y, grad) in y.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            cpu::backward_row(y, grad, self.scale);
        }
        Ok((CpuStorage::F32(out), ly.shape().clone()))
    }
}
