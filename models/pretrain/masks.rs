//! Masks, the patches they pick, and the input of a shard.

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;

use crate::error::Result;
use crate::rng::keyed_rng;
use crate::targets::Targets;

/// A shard's input.
pub(crate) struct Masked {
    /// `[images, 3, side, side]`
    pub images: Tensor,
    /// Targets of all patches.
    pub targets: Targets,
    /// One per image.
    pub masks: Vec<Mask>,
    /// The shard's fraction of the batch.
    pub share: f64,
}

impl Masked {
    /// Joins several shards and moves their images to `device`.
    pub fn join(shards: Vec<Self>, device: &Device) -> Result<Self> {
        let images = shards.iter().map(|shard| shard.images.to_device(device));
        let images = Tensor::cat(&images.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        Ok(Self {
            images,
            share: shards.iter().map(|shard| shard.share).sum(),
            targets: Targets::cat(&shards.iter().map(|s| &s.targets).collect::<Vec<_>>())?,
            masks: shards.into_iter().flat_map(|shard| shard.masks).collect(),
        })
    }
}

/// Returns the number of visible patches, `int(N * (1 - mask_ratio))`, with at least one visible and one masked patch.
pub(super) fn kept(patches: usize, mask_ratio: f64) -> usize {
    ((patches as f64 * (1.0 - mask_ratio)) as usize).clamp(1, patches.max(2) - 1)
}

/// The visible and masked patches of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// A permutation of the patches: the first `num_kept` are visible, the rest is masked and predicted.
    pub shuffled: Vec<u32>,
    /// Number of visible patches.
    pub num_kept: usize,
}

impl Mask {
    /// Draws uniformly without replacement from (seed, epoch, image).
    pub fn draw(seed: u64, epoch: usize, image: usize, patches: usize, mask_ratio: f64) -> Self {
        let mut shuffled: Vec<u32> = (0..patches as u32).collect();
        shuffled.shuffle(&mut keyed_rng(seed, "mask", epoch as u64, image as u64));
        Self {
            shuffled,
            num_kept: kept(patches, mask_ratio),
        }
    }

    /// Returns the row of each patch in the order (visible, masked).
    fn restore(&self) -> Vec<u32> {
        let mut restore = vec![0; self.shuffled.len()];
        self.shuffled
            .iter()
            .enumerate()
            .for_each(|(row, patch)| restore[*patch as usize] = row as u32);
        restore
    }
}

/// The patches of a batch as rows of `[batch * patches]`.
pub(super) struct Places {
    /// The visible patches, image by image.
    pub keep: Vec<u32>,
    /// The masked patches.
    pub removed: Vec<u32>,
    /// Each patch's place in the order (visible, masked) of its image.
    pub restore: Vec<u32>,
}

impl Places {
    pub fn of(masks: &[&Mask], patches: usize) -> Self {
        let rows = |pick: &dyn Fn(&Mask) -> &[u32]| -> Vec<u32> {
            let all = masks.iter().enumerate().flat_map(|(image, mask)| {
                let rows = pick(mask).iter();
                rows.map(move |row| (image * patches) as u32 + row)
            });
            all.collect()
        };
        Self {
            keep: rows(&|mask| &mask.shuffled[..mask.num_kept]),
            removed: rows(&|mask| &mask.shuffled[mask.num_kept..]),
            restore: masks.iter().flat_map(|mask| mask.restore()).collect(),
        }
    }
}

/// Returns the codes of the masked patches `removed` from those of all patches, `groups` per patch.
pub(super) fn masked(removed: &[u32], codes: &[u32], groups: usize) -> Vec<u32> {
    let rows = removed.iter();
    let codes = rows.flat_map(|row| &codes[*row as usize * groups..][..groups]);
    codes.copied().collect()
}
