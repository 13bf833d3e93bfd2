//! The block composed of single differentiable operations. It runs on a GPU, where cuBLAS computes products, and serves as
//! the reference for the fused operation.

use candle_core::{Result, Tensor};

use super::parts::Block;
use crate::ops::{attention, bias_gelu, gather_rows, layer_norm, linear};

/// Computes `block`. Gradients are in the graph, and `recompute` has no effect.
pub fn composed(x: &Tensor, block: &Block) -> Result<Tensor> {
    let p = &block.parameters;
    let normed = layer_norm(x, &p[0], &p[1], block.eps)?;
    let mixed = attention(&linear(&normed, &p[2], Some(&p[3]))?, block.heads)?;
    let mut x = residual(x, linear(&mixed, &p[4], Some(&p[5]))?, &block.scales[0])?;
    if let Some(only) = &block.only {
        x = gather_rows(&x.flatten_to(1)?, only.clone())?;
    }
    let normed = layer_norm(&x, &p[6], &p[7], block.eps)?;
    let hidden = bias_gelu(&linear(&normed, &p[8], None)?, &p[9])?;
    let branch = linear(&hidden, &p[10], Some(&p[11]))?;
    residual(&x, branch, &block.scales[1])
}

/// Returns `x` plus the branch, scaled by each image's factor.
fn residual(x: &Tensor, branch: Tensor, scales: &Option<Vec<f32>>) -> Result<Tensor> {
    let Some(scales) = scales else {
        return x + branch;
    };
    let scales = Tensor::from_slice(scales, (scales.len(), 1, 1), x.device())?;
    let scales = scales.to_dtype(branch.dtype())?;
    x + branch.broadcast_mul(&scales)?
}
