//! Hyperparameters of pretraining, and MAE's settings of AdamW.

use candle_core::Tensor;

use crate::optim::{Group, Slot};
use crate::params::ParamStore;
use crate::precision::Precision;
use crate::train;

/// Hyperparameters of pretraining.
#[derive(Clone, Debug)]
pub struct PretrainConfig {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Weight decay of tensors with more than one dimension.
    pub weight_decay: f64,
    /// Fraction of the patches that is masked.
    pub mask_ratio: f64,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
    /// Store only the blocks' inputs for the backward, and recompute each block.
    pub gradient_checkpointing: bool,
    /// Type of the residual stream in bf16 training without a graph. Candle's graph in bf16 always has it in bf16, and all other training
    /// in f32.
    pub residual_stream: Precision,
    /// Seed of initialisation, order and masks.
    pub seed: u64,
}

/// AdamW's betas in MAE.
pub(super) const BETAS: (f64, f64) = (0.9, 0.95);

/// Returns the trained variables with MAE's groups.
pub(super) fn slots(params: &ParamStore, config: &PretrainConfig) -> Vec<Slot> {
    let decays = |_: &str, var: &Tensor| Group {
        lr_scale: 1.0,
        weight_decay: if var.rank() > 1 {
            config.weight_decay
        } else {
            0.0
        },
    };
    train::slots(params, decays)
}
