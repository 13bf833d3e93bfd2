//! The input of a part on a device.

use tessera_kernels::device::launcher::{Device, Memory};

use super::lists::Lists;
use crate::error::Result;

/// Input of a part on a device.
#[derive(Clone)]
pub(super) struct Ready {
    pub images: usize,
    /// `[images, 3, side, side]` f32.
    pub pixels: Memory,
    /// Values of all patches; `None` for ids.
    pub values: Option<Memory>,
    pub lists: Lists,
    /// The part's share of the batch.
    pub share: f64,
}

impl Ready {
    /// Returns the number of images and the bytes of the lists.
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.images, self.lists.all.len()]
    }

    /// Copies the input over `other`, which has equal [`sizes`](Self::sizes).
    pub(super) fn copy_to(&self, device: &Device, other: &Self) -> Result<()> {
        device.copy(&other.lists.all, &self.lists.all)?;
        device.copy(&other.pixels, &self.pixels)?;
        if let (Some(to), Some(from)) = (&other.values, &self.values) {
            device.copy(to, from)?;
        }
        Ok(())
    }
}
