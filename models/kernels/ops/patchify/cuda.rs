//! Patches on a GPU.

use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Result};

use super::{cpu::Order, launch};
use crate::device::cuda::ops::{Given, Numbers, run};
use crate::device::launch::Float;

/// Returns patches `keep` of f32 images as (channel, row, column).
pub fn forward(images: Given<'_>, patch: usize, keep: &[u32]) -> Result<CudaStorage> {
    let (batch, .., side) = images.2.shape().dims4()?;
    let order = Order::ChannelFirst;
    let of = launch::Images {
        batch,
        side,
        patch,
        order,
    };
    let launch = launch::from_floats(Float::F32, of, keep.len()).map_err(Error::wrap)?;
    let [out] = run(
        &[launch],
        &[images],
        &[("keep", Numbers::U32(keep))],
        ["out"],
    )?;
    Ok(out)
}
