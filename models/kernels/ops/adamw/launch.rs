//! The launch of `adamw.cu`.

use crate::device::launch::{
    Arg, Dtype, Launch, Result, blocks, module, product, read, update, write,
};
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
    launch(flat, betas, correction, false)
}

/// Does the same and writes the new values in bf16 to `rounded`.
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn step_rounded(flat: &Flat, betas: [f32; 2], correction: f32) -> Result<Launch> {
    launch(flat, betas, correction, true)
}

fn launch(flat: &Flat, betas: [f32; 2], correction: f32, rounded: bool) -> Result<Launch> {
    let (chunks, tensors) = (flat.chunk_tensor.len(), flat.starts.len());
    let all = product("the parameters", &[chunks, CHUNK as usize])?;
    let mut args = vec![
        update("value", Dtype::F32, all),
        read("grad", Dtype::F32, all),
        update("first", Dtype::F32, all),
        update("second", Dtype::F32, all),
    ];
    if rounded {
        args.push(write("rounded", Dtype::Bf16, all));
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
    let kernel = if rounded { "adamw_rounded" } else { "adamw" };
    let grid = blocks(chunks as u64, 1)?;
    Ok(Launch::new(module, kernel, grid, args))
}
