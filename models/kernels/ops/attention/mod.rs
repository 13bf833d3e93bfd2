//! Multi-head self-attention from the joint projection: `softmax(Q K^T / sqrt(size)) V` per head.
//!
//! The backward does not store a `[tokens, tokens]` matrix: it recomputes the weights, a tile of queries at a time
//! (FlashAttention, Dao et al. 2022). Heads are read and written in place, without permuting or copying.

pub(super) mod composed;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

pub use cpu::Sizes;
pub(super) use cpu::{backward, forward};

use candle_core::backend::BackendStorage as _;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::values::{floats, read, stored, tensor_like};
use crate::product::{Operand, Rounding};

/// Computes self-attention with `heads` heads.
///
/// # Shapes
/// `qkv` `[batch, tokens, 3 * heads * size]` f32 or bf16, each row with queries, keys and values in timm's order. Returns
/// `[batch, tokens, heads * size]` of the same type. The GPU kernel supports bf16 and sizes that are multiples of 16 up to
/// 128. For other inputs, the GPU computes single products, with the weights of all pairs of tokens in memory.
///
/// # Errors
/// If `qkv` has another type, or its width is not a multiple of `3 * heads`.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, width) = qkv.dims3()?;
    if heads == 0 || !width.is_multiple_of(3 * heads) {
        candle_core::bail!(
            "attention: {width} numbers per token, expected a multiple of 3 x {heads} heads"
        );
    }
    let sizes = Sizes {
        batch,
        tokens,
        heads,
        size: width / 3 / heads,
    };
    let is_fused = qkv.dtype() == DType::BF16 && launch::forward(sizes).is_ok();
    if qkv.device().is_cuda() && !is_fused {
        return composed::composed(qkv, sizes);
    }
    qkv.contiguous()?.apply_op1(Attention::of(heads))
}

struct Attention {
    heads: usize,
    /// Statistics of a GPU's forward for its backward.
    #[cfg(feature = "cuda")]
    log_total: std::sync::OnceLock<Tensor>,
}

impl Attention {
    fn of(heads: usize) -> Self {
        Self {
            heads,
            #[cfg(feature = "cuda")]
            log_total: std::sync::OnceLock::new(),
        }
    }

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

/// Prepares `values` with `parts` numbers per token and number of a head for products in f32.
fn in_f32(values: &[f32], sizes: Sizes, parts: usize) -> Operand<'_> {
    let width = parts * sizes.heads * sizes.size;
    Operand::new(values, [sizes.batch * sizes.tokens, width], Rounding::Exact)
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(layout.shape())?;
        let values = floats("attention", qkv, layout)?;
        let out = cpu::forward(&in_f32(&values, sizes, 3), sizes);
        let shape = (sizes.batch, sizes.tokens, sizes.heads * sizes.size);
        Ok((stored(out, qkv.dtype()), shape.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let sizes = self.sizes(layout.shape())?;
        let (out, log_total) = cuda::forward(("qkv", qkv, layout), sizes)?;
        self.log_total.get_or_init(|| log_total);
        let shape = (sizes.batch, sizes.tokens, sizes.heads * sizes.size);
        Ok((out, shape.into()))
    }

    fn bwd(&self, qkv: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let sizes = self.sizes(qkv.shape())?;
        #[cfg(feature = "cuda")]
        if qkv.device().is_cuda() {
            let Some(log_total) = self.log_total.get() else {
                candle_core::bail!("attention: a backward without a forward");
            };
            let forward = (_out, log_total);
            return Ok(Some(cuda::backward(qkv, forward, &grad, sizes)?));
        }
        let (values, grads) = (read(qkv)?, read(&grad)?);
        let out = cpu::backward(&in_f32(&values, sizes, 3), &in_f32(&grads, sizes, 1), sizes);
        Ok(Some(tensor_like(out, qkv)?))
    }
}
