//! The loss that a training loop minimises, and the loop's settings.

use candle_core::Tensor;

use crate::error::Result;
use crate::optim::schedule::Schedule;
use crate::vit::Pass;

/// Settings of a training loop.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Images per epoch.
    pub len: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Name of the random stream that shuffles an epoch's images.
    pub order: &'static str,
    /// Learning-rate schedule.
    pub schedule: Schedule,
}

/// A loss to minimise.
pub(crate) trait Objective: Sync {
    /// Input of a shard's loss: images, targets and random draws.
    type Prepared: Send;

    /// Splits a batch of `len` images into shards of positions in the batch. Each position occurs once. All machines use the same split.
    fn shards(&self, len: usize) -> Vec<Vec<usize>>;
    /// Whether blocks store only their inputs for the backward, which saves memory and costs a third more time.
    fn recomputes(&self) -> bool;
    /// Prepares the data of a shard of step `step` of the run: reads, decodes, augments and tokenizes images. It uses no parameters, so it
    /// can run long before the step. `shard` contains positions in `batch`, and `batch` contains indices of images.
    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Self::Prepared>;
    /// Returns how many shards a device computes together in one part of a batch; `None` if shards run in parallel.
    fn together(&self) -> Option<usize>;
    /// Joins the data of several shards on the parameters' device.
    ///
    /// # Errors
    /// If `shards` is empty or memory is insufficient.
    fn join(&self, shards: Vec<Self::Prepared>) -> Result<Self::Prepared>;
    /// Computes the sum of the losses of the shard's images, divided by the batch's length, so shards sum to the batch's mean.
    fn loss(&self, prepared: Self::Prepared, pass: &Pass) -> Result<Tensor>;
}

/// Splits `len` positions into runs of `size`.
pub(crate) fn runs(len: usize, size: usize) -> Vec<Vec<usize>> {
    let starts = (0..len).step_by(size);
    starts
        .map(|start| (start..(start + size).min(len)).collect())
        .collect()
}
