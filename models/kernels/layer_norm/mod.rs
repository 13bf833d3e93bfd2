//! Layer norm over the last dimension, with a backward for input, weight and bias. (Candle's fused one has none, and takes the
//! variance as `E[x^2] - E[x]^2`; this one takes two passes.)

mod cpu;
#[cfg(test)]
pub(super) mod reference;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// # Shapes
/// `x` `[..., dim]`, `weight` and `bias` `[dim]`; returns `[..., dim]`.
///
/// # Errors
/// When an argument is not f32 or the dimensions differ.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
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
        let weight = super::values("layer-norm", weight, lw)?;
        let bias = super::values("layer-norm", bias, lb)?;
        let mut y = super::values("layer-norm", x, lx)?.to_vec();
        for row in y.chunks_exact_mut(weight.len()) {
            cpu::normalize(row, self.eps);
            row.iter_mut()
                .zip(weight)
                .zip(bias)
                .for_each(|((y, w), b)| *y = *y * w + b);
        }
        Ok((CpuStorage::F32(y), lx.shape().clone()))
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
        let dim = weight.dim(0)?;
        let x = x.detach().contiguous()?;
        let rows = grad.elem_count() / dim;
        // Rows of the input's gradient, then one row each for the weight's and the bias's.
        let packed =
            x.apply_op3_no_bwd(&weight.detach(), &grad, &LayerNormGrad { eps: self.eps })?;
        let dx = packed.narrow(0, 0, rows)?.reshape(x.shape())?;
        let dw = packed.narrow(0, rows, 1)?.reshape(dim)?;
        let db = packed.narrow(0, rows + 1, 1)?.reshape(dim)?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

struct LayerNormGrad {
    eps: f32,
}

impl CustomOp3 for LayerNormGrad {
    fn name(&self) -> &'static str {
        "layer-norm-grad"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = super::values("layer-norm-grad", weight, lw)?;
        let grad = super::values("layer-norm-grad", grad, lg)?;
        let x = super::values("layer-norm-grad", x, lx)?;
        let dim = weight.len();
        let rows = x.len() / dim;
        let mut out = vec![0.0; (rows + 2) * dim];
        let (dx, rest) = out.split_at_mut(rows * dim);
        let (dw, db) = rest.split_at_mut(dim);
        let mut normal = vec![0.0; dim];
        for ((x, grad), dx) in x
            .chunks_exact(dim)
            .zip(grad.chunks_exact(dim))
            .zip(dx.chunks_exact_mut(dim))
        {
            normal.copy_from_slice(x);
            let scale = cpu::normalize(&mut normal, self.eps);
            cpu::backward_row(&normal, scale, weight, grad, dx);
            for ((dw, db), (g, n)) in dw
                .iter_mut()
                .zip(db.iter_mut())
                .zip(grad.iter().zip(&normal))
            {
                *dw += g * n;
                *db += g;
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((rows + 2, dim))))
    }
}
