//! Launches of `lars.cu`.

use crate::device::launch::{
    Arg, Dtype, Launch, Module, Result, blocks, module, product, read, update, write,
};
use crate::ops::flat::{CHUNK, Flat};

/// Parameters of one step for many tensors.
#[derive(Clone, Debug)]
pub struct Steps {
    /// `Step::lr` of each tensor.
    pub rate: Vec<f32>,
    /// `Step::weight_decay` of each tensor, 0 without trust.
    pub decay: Vec<f32>,
    /// `Step::trust` of each tensor, or 0.
    pub trust: Vec<f32>,
    /// `Step::momentum` of all tensors.
    pub momentum: f32,
}

fn source() -> Module {
    module("lars", include_str!("lars.cu"), &[("CHUNK", CHUNK)])
}

/// Updates the flat buffers `value` and `moment` with `grad`; `trust`, `decay` and `rate` hold one number per tensor, `first_chunk` one
/// more.
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn step(flat: &Flat, momentum: f32) -> Result<[Launch; 3]> {
    let (chunks, tensors) = (flat.chunk_tensor.len(), flat.starts.len());
    let all = product("the parameters", &[chunks, CHUNK as usize])?;
    let norms = vec![
        read("value", Dtype::F32, all),
        read("grad", Dtype::F32, all),
        read("chunk_tensor", Dtype::U32, chunks),
        read("decay", Dtype::F32, tensors),
        write("partial", Dtype::F32, 2 * chunks),
    ];
    let factors = vec![
        read("partial", Dtype::F32, 2 * chunks),
        read("first_chunk", Dtype::U32, tensors + 1),
        read("trust", Dtype::F32, tensors),
        write("factor", Dtype::F32, tensors),
    ];
    let step = vec![
        update("value", Dtype::F32, all),
        read("grad", Dtype::F32, all),
        update("moment", Dtype::F32, all),
        read("chunk_tensor", Dtype::U32, chunks),
        read("decay", Dtype::F32, tensors),
        read("factor", Dtype::F32, tensors),
        read("rate", Dtype::F32, tensors),
        Arg::F32("momentum", momentum),
    ];
    let (each, one) = (blocks(chunks as u64, 1)?, blocks(tensors as u64, 1)?);
    Ok([
        Launch::new(source(), "lars_norms", each, norms),
        Launch::new(source(), "lars_factors", one, factors),
        Launch::new(source(), "lars_step", each, step),
    ])
}
