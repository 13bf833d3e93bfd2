//! Features that come with Tessera: images to values per patch.

pub mod checkpoint;
pub mod hog;
pub mod pixels;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::contract::{BuildContext, Grid};

/// Sizes that every feature of whole patches shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches {
    /// Side of the image, pixels.
    pub image_size: usize,
    /// Patches.
    pub grid: Grid,
}

impl Patches {
    pub fn of(cx: &BuildContext<'_>) -> Self {
        Self {
            image_size: cx.image_size,
            grid: cx.grid,
        }
    }

    /// Side of a patch, pixels.
    pub fn side(&self) -> usize {
        self.image_size / self.grid.cols
    }
}

/// `[batch, num_patches, dim]` from row-major values.
pub(crate) fn per_patch(values: Vec<f32>, batch: usize, grid: Grid, dim: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(
        values,
        (batch, grid.num_patches(), dim),
        &Device::Cpu,
    )?)
}
