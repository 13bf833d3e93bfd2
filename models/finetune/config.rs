//! The recipe of fine-tuning.

use crate::encode::Pool;

/// The recipe.
#[derive(Clone, Debug)]
pub struct FinetuneConfig {
    /// Passes over the train split.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Learning rate after warm-up, of the head.
    pub lr: f64,
    /// Rate at which the cosine ends.
    pub min_lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Weight decay of everything with more than one dimension but class token and position embedding.
    pub weight_decay: f64,
    /// Factor of the rate from a layer to the one below.
    pub layer_decay: f64,
    /// Mean of the patch tokens with `fc_norm`, or the class token with `norm`.
    pub pool: Pool,
    /// Label smoothing.
    pub label_smoothing: f64,
    /// Stochastic depth of the last block, linear over depth.
    pub drop_path: f64,
    /// Beta parameter of mixup; 0 is off.
    pub mixup: f64,
    /// Beta parameter of CutMix; 0 is off.
    pub cutmix: f64,
    /// Keep only the blocks' inputs for the backward, and run each again.
    pub gradient_checkpointing: bool,
    /// Seed of the head, the order and all draws.
    pub seed: u64,
}
