//! Attention composed of Candle's differentiable products, for sizes that the GPU kernel does not support.

use candle_core::{D, DType, Result, Tensor};

use super::cpu::Sizes;

/// Computes [`attention`](super::attention). The weights are f32, whatever the type of `qkv`.
pub fn composed(qkv: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let (heads, size) = (sizes.heads, sizes.size);
    let parts = qkv.reshape((sizes.batch, sizes.tokens, 3, heads, size))?;
    let part = |which: usize| {
        let part = parts.narrow(2, which, 1)?.squeeze(2)?;
        part.transpose(1, 2)?.contiguous()
    };
    let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
    let scale = 1.0 / (size as f64).sqrt();
    let scores = (queries.matmul(&keys.t()?)?.to_dtype(DType::F32)? * scale)?;
    // The maximum only limits the range. The result does not depend on it, so it needs no gradient.
    let top = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&top)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let mixed = weights.to_dtype(values.dtype())?.matmul(&values)?;
    mixed
        .transpose(1, 2)?
        .reshape((sizes.batch, sizes.tokens, heads * size))
}
