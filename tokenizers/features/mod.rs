//! Built-in features: values per patch.

pub mod checkpoint;
pub mod hog;
pub mod pixels;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::config::Config;
use crate::contract::Grid;
use crate::registry::BuildContext;

/// Sizes of features over square patches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches {
    /// Side of the image, pixels.
    pub image_size: usize,
    /// Grid of patches.
    pub grid: Grid,
}

impl Patches {
    /// Returns the suite's sizes. Errors name the features `with`.
    pub fn of(with: &Config, cx: &BuildContext<'_>) -> Result<Self> {
        let (image_size, grid) = (cx.image_size, cx.grid);
        let whole = |patches: usize| patches > 0 && image_size.is_multiple_of(patches);
        if grid.rows != grid.cols || !whole(grid.cols) {
            let message = format!(
                "a grid of {grid} patches does not fit an image of {image_size} pixels; expected square patches of whole pixels"
            );
            return Err(with.error("", message).into());
        }
        Ok(Self { image_size, grid })
    }

    /// Returns the side of a patch in pixels.
    pub fn side(&self) -> usize {
        self.image_size / self.grid.cols
    }
}

/// Returns row-major `values` as a tensor `[batch, num_patches, dim]`.
pub(crate) fn per_patch(values: Vec<f32>, batch: usize, grid: Grid, dim: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(
        values,
        (batch, grid.num_patches(), dim),
        &Device::Cpu,
    )?)
}
