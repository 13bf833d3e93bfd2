//! The parameters and settings of a block.

use candle_core::Tensor;

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

/// Shapes of the tensors that [`PARAMETERS`] names, of a block `width` wide.
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

/// What a block is made of.
pub struct Block {
    /// The tensors that [`PARAMETERS`] names.
    pub parameters: [Tensor; 12],
    /// Attention heads.
    pub heads: usize,
    /// Of both norms.
    pub eps: f32,
    /// Factors of each residual branch per image (stochastic depth), or none.
    pub scales: [Option<Vec<f32>>; 2],
    /// Rows of `[batch * tokens]`, each at most once, that are wanted of the output: the others stop after the attention,
    /// which is all that they are needed for in a model's last block.
    pub only: Option<Vec<u32>>,
    /// Keep nothing but the input for the backward.
    pub recompute: bool,
    /// Made of single operations also where one operation could do it: f32 on the CPU.
    pub composed: bool,
}
