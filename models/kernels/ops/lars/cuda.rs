//! LARS on a GPU.

use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result};

use super::launch::{self, Steps};
use crate::device::cuda::ops::{Given, Numbers, Own, run_in};
use crate::ops::flat::Flat;

/// Updates `state`, which must start at the beginning of its storage.
pub fn step(state: &mut CudaStorage, grad: Given<'_>, flat: &Flat, steps: &Steps) -> Result<()> {
    let launches = launch::step(flat, steps.momentum).map_err(Error::wrap)?;
    let len = flat.len();
    let parts = vec![("value", 0, len), ("moment", len, len)];
    let first_chunks = flat.first_chunks();
    let lists = [
        ("chunk_tensor", Numbers::U32(&flat.chunk_tensor)),
        ("first_chunk", Numbers::U32(&first_chunks)),
        ("rate", Numbers::F32(&steps.rate)),
        ("decay", Numbers::F32(&steps.decay)),
        ("trust", Numbers::F32(&steps.trust)),
    ];
    run_in(&launches, Own::parts(state, parts), &[grad], &lists)
}
