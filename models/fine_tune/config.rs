//! Hyperparameters of fine-tuning.

use crate::encode::Pool;

/// Hyperparameters of fine-tuning.
#[derive(Clone, Debug)]
pub struct FinetuneConfig {
    /// Passes over the train split.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Learning rate of the head after warm-up.
    pub lr: f64,
    /// Learning rate at the end of the cosine schedule.
    pub min_lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Weight decay of tensors with more than one dimension, except class token and position embedding.
    pub weight_decay: f64,
    /// Ratio of a layer's learning rate to that of the layer above.
    pub layer_decay: f64,
    /// Head input: the mean of the patch tokens with `fc_norm`, or the class token with `norm`.
    pub pool: Pool,
    /// Label smoothing.
    pub label_smoothing: f64,
    /// Stochastic depth rate of the last block; the rate grows linearly with depth.
    pub drop_path: f64,
    /// Beta parameter of mixup; 0 disables it.
    pub mixup: f64,
    /// Beta parameter of CutMix; 0 disables it.
    pub cutmix: f64,
    /// Store only the blocks' inputs for the backward, and recompute each block.
    pub gradient_checkpointing: bool,
    /// Seed of the head's initialisation, the order and all random draws.
    pub seed: u64,
}
