//! Parameters and settings of a block.

use candle_core::Tensor;

use super::packs::Packs;

/// Names of a block's parameters, in the order of [`Block::parameters`].
pub const PARAMETERS: [&str; 12] = [
    "norm1.weight",
    "norm1.bias",
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
];

/// Indices of the matrices of products in [`PARAMETERS`].
pub const MATRICES: [usize; 4] = [2, 4, 8, 10];

/// Returns the shapes of the tensors named in [`PARAMETERS`], for a block of width `width`.
pub fn shapes(width: usize) -> [Vec<usize>; 12] {
    [
        vec![width],
        vec![width],
        vec![3 * width, width],
        vec![3 * width],
        vec![width, width],
        vec![width],
        vec![width],
        vec![width],
        vec![4 * width, width],
        vec![4 * width],
        vec![width, 4 * width],
        vec![width],
    ]
}

/// A block's parameters and settings.
pub struct Block {
    /// The tensors named in [`PARAMETERS`].
    pub parameters: [Tensor; 12],
    /// Packed matrices among the parameters, from their present numbers.
    pub packs: Packs,
    /// Number of attention heads.
    pub heads: usize,
    /// Epsilon of both norms.
    pub eps: f32,
    /// Factors of each residual branch per image (stochastic depth), or `None`.
    pub scales: [Option<Vec<f32>>; 2],
    /// Rows of `[batch * tokens]` to output, each at most once; `None` for all. In a model's last block, the other rows are needed
    /// only by the attention.
    pub only: Option<Vec<u32>>,
    /// Store only the input for the backward.
    pub recompute: bool,
    /// Compose single operations even if the fused operation applies (f32 tokens on the CPU).
    pub composed: bool,
}
