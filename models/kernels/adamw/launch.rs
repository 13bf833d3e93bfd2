//! The launch of `adamw.cu`, and how tensors lie in its flat buffers.

use crate::kernels::launch::{
    Arg, Dtype, Float, Launch, Result, THREADS, blocks, module, product, read, update, write,
};

/// Numbers of a block: four per thread. Every tensor begins at a multiple.
pub const CHUNK: u32 = 4 * THREADS;

/// Tensors end to end, each filled up to whole chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Where each tensor begins.
    pub starts: Vec<usize>,
    /// Whose numbers each chunk holds.
    pub chunk_tensor: Vec<u32>,
}

impl Flat {
    /// For tensors of these lengths.
    pub fn of(lengths: &[usize]) -> Self {
        let (mut starts, mut chunk_tensor) = (Vec::new(), Vec::new());
        for (tensor, length) in (0..).zip(lengths) {
            starts.push(chunk_tensor.len() * CHUNK as usize);
            let chunks = length.div_ceil(CHUNK as usize);
            chunk_tensor.extend(std::iter::repeat_n(tensor, chunks));
        }
        Self {
            starts,
            chunk_tensor,
        }
    }

    /// Numbers of a flat buffer.
    pub fn len(&self) -> usize {
        self.chunk_tensor.len() * CHUNK as usize
    }

    /// Whether no tensor has a number.
    pub fn is_empty(&self) -> bool {
        self.chunk_tensor.is_empty()
    }
}

/// Moves the flat buffers `value`, `first` and `second` by `grad`; `rate` and `decay` have a number per tensor, and of bf16
/// gradients `copy` is the new values in bf16.
///
/// # Errors
/// When a size is beyond 31 bits.
pub fn step(flat: &Flat, grad: Float, betas: [f32; 2], correction: f32) -> Result<Launch> {
    let (chunks, tensors) = (flat.chunk_tensor.len(), flat.starts.len());
    let all = product("the parameters", &[chunks, CHUNK as usize])?;
    let mut args = vec![
        update("value", Dtype::F32, all),
        read("grad", grad.dtype(), all),
        update("first", Dtype::F32, all),
        update("second", Dtype::F32, all),
    ];
    if grad == Float::Bf16 {
        args.push(write("copy", Dtype::Bf16, all));
    }
    args.extend([
        read("chunk_tensor", Dtype::U32, chunks),
        read("rate", Dtype::F32, tensors),
        read("decay", Dtype::F32, tensors),
        Arg::F32("b1", betas[0]),
        Arg::F32("b2", betas[1]),
        Arg::F32("correction", correction),
    ]);
    let module = module("adamw", include_str!("adamw.cu"), &[("CHUNK", CHUNK)]);
    let grid = blocks(chunks as u64, 1)?;
    Ok(Launch::new(module, grad.of("adamw"), grid, args))
}
