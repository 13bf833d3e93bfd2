//! ViT, masked pretraining, probes and fine-tuning on Candle.
//!
//! Knows tensors, not suites: a training loop is given a configuration, a data source and a place for
//! checkpoints. Parallelism is by *shards*: a batch is cut into shards of a fixed number of images, each shard runs
//! forward and backward on one thread, and gradients are summed in shard order, so the result does not depend on the
//! number of threads.

pub mod error;
pub mod rng;
pub mod targets;

pub use error::{Error, Result};
pub use targets::{TargetSpec, Targets};
