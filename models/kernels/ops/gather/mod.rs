//! Gathers rows (visible or masked tokens) and restores the decoder's input to image order.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

pub(super) use cpu::{gather, scatter};

use candle_core::backend::BackendStorage as _;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::values::{floats, read, stored, tensor_like};

/// Returns rows `index` of `x`, each at most once, because the backward writes and does not add.
///
/// # Shapes
/// `x` `[rows, dim]` f32 or bf16; returns `[index.len(), dim]` of its type.
///
/// # Errors
/// If `x` has another type, or a row is out of range or repeated.
pub fn gather_rows(x: &Tensor, index: Vec<u32>) -> Result<Tensor> {
    check_rows(&index, x.dims2()?.0)?;
    x.contiguous()?.apply_op1(Gather { index })
}

/// Checks that rows are below `rows` and not repeated.
pub(super) fn check_rows(index: &[u32], rows: usize) -> Result<()> {
    let mut used = vec![false; rows];
    for row in index {
        match used.get_mut(*row as usize) {
            Some(used) if !*used => *used = true,
            _ => candle_core::bail!("gather-rows: row {row} of {rows} is out of range or repeated"),
        }
    }
    Ok(())
}

struct Gather {
    index: Vec<u32>,
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "gather-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, dim) = layout.shape().dims2()?;
        let out = cpu::gather(&floats("gather-rows", x, layout)?, &self.index, dim);
        Ok((stored(out, x.dtype()), (self.index.len(), dim).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, dim) = layout.shape().dims2()?;
        let out = cuda::gather(("x", x, layout), &self.index)?;
        Ok((out, (self.index.len(), dim).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, dim) = x.dims2()?;
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return Ok(Some(cuda::scatter(x, &grad, &self.index, rows)?));
        }
        let out = cpu::scatter(&read(&grad)?, &self.index, rows, dim);
        Ok(Some(tensor_like(out, x)?))
    }
}

/// Restores the decoder's tokens to image order: class token, then for each patch its encoded token or the mask token.
///
/// # Shapes
/// `x` `[batch, 1 + kept, dim]` (class token first), `mask_token` `[dim]`. `restore` `[batch * patches]` is each patch's
/// position in (visible, masked) order within its image: below `kept`, it is row `1 + position` of `x`; otherwise the mask token.
/// Returns `[batch, 1 + patches, dim]` of `x`'s type, f32 or bf16. The mask token may be f32 if `x` is bf16.
///
/// # Errors
/// If an argument has another type or sizes differ.
pub fn restore_patches(x: &Tensor, mask_token: &Tensor, restore: Vec<u32>) -> Result<Tensor> {
    let (batch, tokens, dim) = x.dims3()?;
    if mask_token.dims() != [dim] || tokens == 0 || !restore.len().is_multiple_of(batch) {
        let dims = [x, mask_token].map(Tensor::dims);
        candle_core::bail!(
            "restore-patches: x, mask token {dims:?}, {} places",
            restore.len()
        );
    }
    let mask_token = mask_token.to_dtype(x.dtype())?;
    x.contiguous()?.apply_op2(&mask_token, Restore { restore })
}

struct Restore {
    restore: Vec<u32>,
}

impl CustomOp2 for Restore {
    fn name(&self) -> &'static str {
        "restore-patches"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        mask: &CpuStorage,
        lm: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, dim) = lx.shape().dims3()?;
        let (dtype, x) = (x.dtype(), floats("restore-patches", x, lx)?);
        let mask = floats("restore-patches", mask, lm)?;
        let out = cpu::restore(&x, &mask, &self.restore, batch, tokens);
        let patches = self.restore.len() / batch;
        Ok((stored(out, dtype), (batch, 1 + patches, dim).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        mask: &CudaStorage,
        lm: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (batch, _, dim) = lx.shape().dims3()?;
        let out = cuda::restore(("x", x, lx), ("fill", mask, lm), &self.restore)?;
        let patches = self.restore.len() / batch;
        Ok((out, (batch, 1 + patches, dim).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        mask: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (batch, tokens, dim) = x.dims3()?;
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dmask] = cuda::restore_backward(x, mask, &grad, &self.restore)?;
            return Ok((Some(dx), Some(dmask)));
        }
        let grads = read(&grad)?;
        let (dx, dmask) = cpu::restore_backward(&grads, &self.restore, batch, tokens, dim);
        Ok((Some(tensor_like(dx, x)?), Some(tensor_like(dmask, mask)?)))
    }
}
