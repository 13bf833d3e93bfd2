//! The launch of `adamw.cu`.

use crate::device::launch::{Arg, Dtype, Launch, Result, blocks, module, product, read, update};
use crate::ops::flat::{CHUNK, Flat};

/// Parameters of one step for many tensors.
#[derive(Clone, Debug)]
pub struct Steps {
    /// `Step::rate` of each tensor.
    pub rate: Vec<f32>,
    /// `Step::decay` of each tensor.
    pub decay: Vec<f32>,
    /// `Step::betas` of all tensors.
    pub betas: [f32; 2],
    /// `Step::correction` of all tensors.
    pub correction: f32,
}

/// Updates the flat buffers `value`, `first` and `second` with `grad`; `rate` and `decay` hold one number per tensor.
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn step(flat: &Flat, betas: [f32; 2], correction: f32) -> Result<Launch> {
    let (chunks, tensors) = (flat.chunk_tensor.len(), flat.starts.len());
    let all = product("the parameters", &[chunks, CHUNK as usize])?;
    let args = vec![
        update("value", Dtype::F32, all),
        read("grad", Dtype::F32, all),
        update("first", Dtype::F32, all),
        update("second", Dtype::F32, all),
        read("chunk_tensor", Dtype::U32, chunks),
        read("rate", Dtype::F32, tensors),
        read("decay", Dtype::F32, tensors),
        Arg::F32("b1", betas[0]),
        Arg::F32("b2", betas[1]),
        Arg::F32("correction", correction),
    ];
    let module = module("adamw", include_str!("adamw.cu"), &[("CHUNK", CHUNK)]);
    let grid = blocks(chunks as u64, 1)?;
    Ok(Launch::new(module, "adamw", grid, args))
}
