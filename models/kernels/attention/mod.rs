//! Multi-head self-attention from the joint projection: `softmax(Q K^T / sqrt(size)) V` per head.
//!
//! Nothing of `[tokens, tokens]` is kept for the backward: it makes the weights again, a tile of queries at a time
//! (FlashAttention's idea, Dao et al. 2022). Heads are read and written where they lie, so nothing is permuted or copied.

mod cpu;
pub mod launch;
#[cfg(test)]
pub(super) mod reference;

pub use cpu::Sizes;
pub(super) use cpu::{backward, forward};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{read, tensor};

/// Self-attention of `heads` heads.
///
/// # Shapes
/// `qkv` `[batch, tokens, 3 * heads * size]`, a row's queries before its keys before its values, heads within each as timm
/// has them; returns `[batch, tokens, heads * size]`.
///
/// # Errors
/// When `qkv` is not f32 or its width is no multiple of `3 * heads`.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, _, width) = qkv.dims3()?;
    if heads == 0 || !width.is_multiple_of(3 * heads) {
        candle_core::bail!(
            "attention: {width} numbers per token, expected a multiple of 3 x {heads} heads"
        );
    }
    qkv.contiguous()?.apply_op1(Attention { heads })
}

struct Attention {
    heads: usize,
}

impl Attention {
    fn sizes(&self, shape: &Shape) -> Result<cpu::Sizes> {
        let (batch, tokens, width) = shape.dims3()?;
        Ok(cpu::Sizes {
            batch,
            tokens,
            heads: self.heads,
            size: width / 3 / self.heads,
        })
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(layout.shape())?;
        let out = cpu::forward(super::values("attention", qkv, layout)?, sizes);
        let shape = (sizes.batch, sizes.tokens, sizes.heads * sizes.size);
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let sizes = self.sizes(qkv.shape())?;
        let out = cpu::backward(&read(qkv)?, &read(&grad)?, sizes);
        Ok(Some(tensor(out, qkv.shape())?))
    }
}
