//! ViT, masked pretraining, probes and fine-tuning on Candle.
//!
//! This crate does not know suites: a training loop receives a configuration, a data source and a path for checkpoints. A batch is split
//! into *shards* of a fixed number of images. Each shard runs forward and backward on one thread, and gradients are summed in shard
//! order, so the result does not depend on the number of threads.

pub mod ahead;
pub mod attentive;
pub mod checkpoint;
pub mod compute;
pub mod cost;
pub mod encode;
pub mod error;
mod feed;
pub mod files;
pub mod fine_tune;
pub mod foreign;
pub(crate) mod gradients;
pub mod knn;
pub mod logistic;
mod objective;
pub mod optim;
pub mod ordered;
pub mod params;
mod precision;
pub mod pretrain;
pub mod probe;
mod pth;
pub mod rank;
mod read_on;
mod resume;
pub mod rng;
pub mod targets;
pub mod train;
pub mod vit;

#[cfg(test)]
mod testing;

pub use compute::{Compute, EMULATED, LOADED};
pub use encode::ImageSource;
pub use error::{Error, Result};
pub use params::ParamStore;
pub use precision::Precision;
pub use read_on::ReadOn;
pub use resume::EpochRecord;
pub use targets::{Groups, MOST_CODES, MOST_GROUPS, TargetSpec, Targets};
pub use train::{Progress, RunContext};
