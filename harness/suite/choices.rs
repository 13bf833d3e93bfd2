//! Choices and limits that several recipes share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::Precision;

/// `history.csv` has a row per epoch, and no published recipe comes near.
pub(super) const MOST_EPOCHS: usize = 1_000_000;

/// A step looks at all images of a batch.
pub(super) const MOST_IMAGES: usize = 1 << 20;

/// Augmentation of training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// torchvision's RandomResizedCrop and a horizontal flip.
    RandomResizedCrop,
    /// MAE's RandomResizedCrop for linear probing (`util/crop.py`, as in TensorFlow: one attempt, sides clamped to the image's) and a
    /// horizontal flip.
    RandomResizedCropTf,
    /// The evaluation box and a horizontal flip, for tokenizers with only one view.
    FixedView,
    /// The evaluation box without changes.
    None,
}

impl Augment {
    /// Returns whether the crop changes from epoch to epoch.
    pub fn is_random_crop(self) -> bool {
        matches!(self, Self::RandomResizedCrop | Self::RandomResizedCropTf)
    }
}

/// Vector that represents the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The class token.
    Cls,
    /// The mean of the patch tokens.
    Mean,
}

impl Pooling {
    /// Returns the name in suites and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
        }
    }
}

/// Optimisers of the probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeOptimizer {
    /// MAE `util/lars.py`.
    Lars,
    /// AdamW, betas 0.9 and 0.999.
    Adamw,
}

/// Default of a probe's `augment`: MAE's linear probe.
pub(super) fn random_resized_crop_tf() -> Augment {
    Augment::RandomResizedCropTf
}

/// Default of `crop_scale` for probes and fine-tuning, torchvision's.
pub(super) fn train_scale() -> [f64; 2] {
    [0.08, 1.0]
}

/// Warm-up of probes in epochs, that of MAE's code.
pub(super) const PROBE_WARMUP: f64 = 10.0;
/// Warm-up of fine-tuning in epochs, that of MAE's code.
pub(super) const FINETUNE_WARMUP: f64 = 5.0;

/// Default of a probe's `warmup_epochs`.
pub(super) fn probe_warmup() -> f64 {
    PROBE_WARMUP
}

/// Default of fine-tuning's `warmup_epochs`.
pub(super) fn finetune_warmup() -> f64 {
    FINETUNE_WARMUP
}

/// Type of the numbers between a ViT's blocks, to which every block adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResidualStream {
    /// bf16, which is faster.
    #[default]
    Auto,
    /// f32, as under PyTorch's autocast.
    F32,
}

impl ResidualStream {
    /// Returns the type on a GPU.
    pub fn precision(self) -> Precision {
        match self {
            Self::Auto => Precision::Bf16,
            Self::F32 => Precision::F32,
        }
    }

    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}
