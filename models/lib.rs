//! ViT, masked pretraining, probes and fine-tuning on Candle.
//!
//! Knows tensors, not suites: a training loop is given a configuration, a data source and a place for
//! checkpoints. Parallelism is by *shards*: a batch is cut into shards of a fixed number of images, each shard runs
//! forward and backward on one thread, and gradients are summed in shard order, so the result does not depend on the
//! number of threads.

pub mod ahead;
pub mod checkpoint;
pub mod compute;
pub mod cost;
pub mod encode;
pub mod error;
mod feed;
pub mod finetune;
pub(crate) mod gradients;
pub mod knn;
pub mod optim;
pub mod ordered;
pub mod params;
pub mod pretrain;
pub mod probe;
pub mod rng;
pub mod targets;
pub mod train;
pub mod vit;

#[cfg(test)]
mod testing;

pub use compute::{Compute, Precision};
pub use error::{Error, Result};
pub use params::ParamStore;
pub use targets::{TargetSpec, Targets};
pub use train::{EpochRecord, Progress, RunContext};

/// Images for the encoder, made on demand.
pub trait ImageSource: Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The images `indices` as epoch `epoch` sees them.
    ///
    /// # Shapes
    /// Returns `[indices, 3, side, side]`, f32, normalised.
    ///
    /// # Errors
    /// When an image cannot be read.
    fn images(&self, epoch: usize, indices: &[usize]) -> Result<candle_core::Tensor>;
}
