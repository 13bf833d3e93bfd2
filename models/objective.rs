//! What a training loop minimises, over which images and for how long.

use candle_core::Tensor;

use crate::error::Result;
use crate::optim::schedule::Schedule;
use crate::vit::Pass;

/// How long and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Images of an epoch.
    pub len: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Name of the random numbers that order an epoch's images.
    pub order: &'static str,
    /// The learning rate.
    pub schedule: Schedule,
}

/// What is minimised.
pub(crate) trait Objective: Sync {
    /// What a shard's loss is computed from: images, what is predicted, all that is drawn for them.
    type Prepared: Send;

    /// Cuts a batch of `len` images into shards of positions in the batch: each position once, the same on every machine.
    fn shards(&self, len: usize) -> Vec<Vec<usize>>;
    /// Whether blocks keep only their inputs for the backward: less memory, a third more time.
    fn recomputes(&self) -> bool;
    /// The data of a shard of step `step` of the run: reads, decodes, augments and tokenizes images. It knows no parameter, so it
    /// can be made long before its step.
    ///
    /// `shard` are positions in `batch`, whose entries are indices of images.
    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Self::Prepared>;
    /// How many shards are computed as one where a device takes one part of a batch after the other; `None` where shards run side by
    /// side.
    fn together(&self) -> Option<usize>;
    /// The data of several shards of a batch as of one, where the parameters are.
    ///
    /// # Errors
    /// When there is none, or no room for it.
    fn join(&self, shards: Vec<Self::Prepared>) -> Result<Self::Prepared>;
    /// The sum over the shard's images of each image's loss, over the batch's length: shards add up to the batch's mean.
    fn loss(&self, prepared: Self::Prepared, pass: &Pass) -> Result<Tensor>;
}

/// `len` positions in runs of `size`.
pub(crate) fn runs(len: usize, size: usize) -> Vec<Vec<usize>> {
    let starts = (0..len).step_by(size);
    starts
        .map(|start| (start..(start + size).min(len)).collect())
        .collect()
}
