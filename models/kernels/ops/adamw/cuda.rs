//! Updates all tensors in one launch on a GPU.

use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result};

use super::launch::{self, Steps};
use crate::device::cuda::ops::{Given, Numbers, Own, run_in};
use crate::ops::flat::Flat;

/// Updates `state`, which must start at the beginning of its storage.
pub fn step(state: &mut CudaStorage, grad: Given<'_>, flat: &Flat, steps: &Steps) -> Result<()> {
    let launch = launch::step(flat, steps.betas, steps.correction).map_err(Error::wrap)?;
    let len = flat.len();
    let parts = vec![
        ("value", 0, len),
        ("first", len, len),
        ("second", 2 * len, len),
    ];
    let lists = [
        ("chunk_tensor", Numbers::U32(&flat.chunk_tensor)),
        ("rate", Numbers::F32(&steps.rate)),
        ("decay", Numbers::F32(&steps.decay)),
    ];
    run_in(&[launch], Own::parts(state, parts), &[grad], &lists)
}
