//! Splits images into patches and back: all or only visible patches for the patch projection, and targets with or without
//! per-patch normalisation.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::values::{floats, read, tensor};

pub use cpu::{Order, normalize, split};

/// Returns patches of images, each as (channel, row, column).
///
/// # Shapes
/// `images` `[batch, 3, side, side]`; `keep` contains rows of `[batch * num_patches]`, each at most once, or is `None` for all.
/// Returns `[rows, 3 * patch * patch]`.
///
/// # Errors
/// If `images` is not f32, its side is not a multiple of `patch`, or a row is out of range.
pub fn patchify(images: &Tensor, patch: usize, keep: Option<Vec<u32>>) -> Result<Tensor> {
    let (batch, channels, rows, side) = images.dims4()?;
    if images.dtype() != DType::F32 {
        candle_core::bail!("patchify: expected f32, found {:?}", images.dtype());
    }
    if channels != 3 || rows != side || patch == 0 || !side.is_multiple_of(patch) {
        candle_core::bail!("patchify: images {:?}, patches of {patch}", images.dims());
    }
    let patches = batch * (side / patch) * (side / patch);
    let keep = keep.unwrap_or_else(|| (0..patches as u32).collect());
    if let Some(row) = keep.iter().find(|row| **row as usize >= patches) {
        candle_core::bail!("patchify: patch {row} of {patches}");
    }
    images.contiguous()?.apply_op1(Patchify { patch, keep })
}

struct Patchify {
    patch: usize,
    keep: Vec<u32>,
}

impl CustomOp1 for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn cpu_fwd(&self, images: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (.., side) = layout.shape().dims4()?;
        let images = floats("patchify", images, layout)?;
        let out = cpu::gather(&images, side, self.patch, &self.keep);
        let dim = 3 * self.patch * self.patch;
        Ok((CpuStorage::F32(out), (self.keep.len(), dim).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, images: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let out = cuda::forward(("images", images, layout), self.patch, &self.keep)?;
        let dim = 3 * self.patch * self.patch;
        Ok((out, (self.keep.len(), dim).into()))
    }

    fn bwd(&self, images: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (batch, .., side) = images.dims4()?;
        let grad = grad.contiguous()?;
        let out = cpu::scatter(&read(&grad)?, batch, side, self.patch, &self.keep);
        Ok(Some(tensor(out, images.shape())?))
    }
}
