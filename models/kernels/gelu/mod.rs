//! `gelu(x) = x Phi(x)` with the exact error function, as PyTorch's default.

mod cpu;
pub(super) use cpu::exp;
#[cfg(test)]
pub(super) mod reference;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

/// GELU (erf), any shape.
///
/// # Errors
/// When `x` is not f32.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gelu)
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = super::values("gelu", x, layout)?.to_vec();
        y.iter_mut().for_each(|v| *v *= cpu::phi(*v));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(
            x.detach()
                .contiguous()?
                .apply_op2_no_bwd(&grad.contiguous()?, &GeluGrad)?,
        ))
    }
}

struct GeluGrad;

impl CustomOp2 for GeluGrad {
    fn name(&self) -> &'static str {
        "gelu-grad"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = super::values("gelu-grad", x, lx)?;
        let mut out = super::values("gelu-grad", grad, lg)?.to_vec();
        out.iter_mut()
            .zip(x)
            .for_each(|(g, x)| *g *= cpu::derivative(*x));
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}
