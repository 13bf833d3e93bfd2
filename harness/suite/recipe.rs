//! Fields of a suite's recipes. Defaults are those of MAE's published code: `main_pretrain.py`, `main_linprobe.py`,
//! `main_finetune.py`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::vit::{Layer, VitConfig};
use tessera_tokenizers::config::missing;
use tessera_tokenizers::layer::layer_schema;
use tessera_tokenizers::{Config, ConfigError, Scale};

use super::choices::{
    Augment, MOST_EPOCHS, MOST_IMAGES, Pooling, ProbeOptimizer, ResidualStream, finetune_warmup,
    probe_warmup, random_resized_crop_tf, train_scale,
};
use super::probes::{AttentiveProbe, BagOfTokens};
use super::rates::{MOST_RATE, Rates};
use crate::data::augment::RandAugment;

/// The recipes of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipes {
    /// Masked pretraining.
    pub pretrain: Option<Pretrain>,
    /// k-NN on frozen features.
    pub knn: Option<Knn>,
    /// Linear probing.
    pub linear_probe: Option<LinearProbe>,
    /// Fine-tuning.
    pub fine_tune: Option<FineTune>,
    /// Attentive probing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attentive_probe: Option<AttentiveProbe>,
    /// A linear classifier on the counts of codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bag_of_tokens: Option<BagOfTokens>,
}

impl Recipes {
    /// Checks fields that must agree with others; `at` is the piece that contains them, for errors, and `vit` the model.
    pub(super) fn check(&self, at: &Config, vit: Option<VitConfig>) -> Result<(), ConfigError> {
        let rules = [self.rules(vit), self.layers(vit)].concat();
        if let Some((field, _, expected)) = rules.iter().find(|(_, holds, _)| !holds) {
            let value = serde_json::json!(self);
            let found = field.split('.').fold(&value, |value, key| &value[key]);
            return Err(at.error(field, format!("found {found}, expected {expected}")));
        }
        let policy = self.fine_tune.as_ref().map(FineTune::rand_augment);
        let policy = policy.transpose();
        policy.map_err(|message| at.error("fine_tune.auto_augment", message))?;
        Ok(())
    }
}

impl Recipes {
    /// Number of evaluations of an encoder.
    pub fn evaluations(&self) -> usize {
        let all = [
            self.knn.is_some(),
            self.linear_probe.is_some(),
            self.attentive_probe.is_some(),
            self.fine_tune.is_some(),
        ];
        all.into_iter().filter(|on| *on).count()
    }
}

/// k-NN sorts so many similarities per image.
const MOST_IMAGES_OF_A_SPLIT: usize = 1 << 24;

/// Masked pretraining (paper 4.1; MAE `main_pretrain.py`), or a checkpoint that was pretrained elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// A pretrained ViT, instead of all other fields: `.safetensors` or `.pth` with timm's parameter names (timm, MAE, DeiT, DINO),
    /// relative to the suite file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Prefix of the parameter names of the encoder to use, if `checkpoint` has several: `teacher.backbone`, `state_dict_ema`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_prefix: Option<String>,
    /// Scaling of the images on which `checkpoint` was trained. Default: `imagenet`; many of timm's ViTs have `minus-one-one`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_scale: Option<Scale>,
    /// Whether the training of `checkpoint` used labels (of any dataset); the report then adds a footnote to the row. Default: whether it has a
    /// linear classifier (`head.weight`, `fc.weight`, `classifier.weight`), or this program wrote it and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_saw_labels: Option<bool>,
    /// Passes over the train split. A last batch that is not whole is left out; the order differs in each.
    #[serde(default = "unused")]
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images per optimiser step, independent of the number of images in memory at a time; larger than the split means the whole split, and its
    /// size stands for `batch` in the learning rate, too.
    #[serde(default = "unused")]
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    pub batch: usize,
    /// Learning rate at batch 256; the actual rate is `base_lr * batch / 256`.
    #[serde(default = "unused_rate")]
    #[schemars(range(max = MOST_RATE), extend("exclusiveMinimum" = 0))]
    pub base_lr: f64,
    /// Epochs of linear warm-up, possibly fractional. Default: a tenth of `epochs`.
    #[serde(default)]
    #[schemars(range(min = 0, max = MOST_EPOCHS))]
    pub warmup_epochs: f64,
    /// Decoupled weight decay (none on biases and norms). Default: 0.05.
    #[serde(default)]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub weight_decay: f64,
    /// Fraction of the patches of each image that are masked.
    #[serde(default = "unused_ratio")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub mask_ratio: f64,
    /// Augmentation, drawn anew every epoch.
    #[serde(default = "random_resized_crop")]
    pub augment: Augment,
    /// Smallest and largest area of a random crop, as fractions of the image's.
    #[serde(default = "pretrain_scale")]
    #[schemars(inner(range(min = 0, max = 1)))]
    pub crop_scale: [f64; 2],
    /// Label smoothing of the cross-entropy over ids.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub label_smoothing: f64,
    /// Store only the blocks' inputs for the backward pass and recompute each block: less memory for activations, about a third more time,
    /// the same results (PyTorch's `torch.utils.checkpoint`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Type of the residual stream in bf16 on a GPU. A CPU keeps it in f32.
    #[serde(default, skip_serializing_if = "ResidualStream::is_auto")]
    pub residual_stream: ResidualStream,
}

/// Fields of [`Pretrain`] that are required without a checkpoint.
pub(super) const PRETRAINING: &[&str] = &["epochs", "batch", "base_lr"];

/// Refuses fields of pretraining beside a checkpoint.
///
/// # Errors
/// On the field.
pub(super) fn check_beside_checkpoint(
    written: &serde_json::Map<String, serde_json::Value>,
    at: &Config,
    field: &str,
) -> Result<(), ConfigError> {
    match written.keys().find(|key| !key.starts_with("checkpoint")) {
        Some(key) => Err(at.error(
            &format!("{field}.{key}"),
            "has no effect with `checkpoint`, a model that was pretrained elsewhere; leave it out",
        )),
        None => Ok(()),
    }
}

/// Checks that `pretrain` has all required fields, or a checkpoint alone.
pub(super) fn check_pretrain_fields(
    written: &serde_json::Map<String, serde_json::Value>,
    at: &Config,
    field: &str,
) -> Result<(), ConfigError> {
    if written.contains_key("checkpoint") {
        return check_beside_checkpoint(written, at, field);
    }
    let absent = PRETRAINING
        .iter()
        .filter(|key| !written.contains_key(**key));
    match missing(absent.copied()) {
        Some(message) => Err(at.error(field, message)),
        None => Ok(()),
    }
}

/// k-NN on frozen features (DINO `eval_knn.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Knn {
    /// Number of neighbours.
    #[serde(default = "neighbours")]
    #[schemars(range(min = 1, max = MOST_IMAGES_OF_A_SPLIT))]
    pub k: usize,
    /// Neighbours have weights `exp(similarity / temperature)`.
    #[serde(default = "temperature")]
    #[schemars(range(max = MOST_RATE), extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
    /// Vector that represents the image.
    #[serde(default = "cls")]
    pub pooling: Pooling,
    /// Compute RankMe of the train images' vectors too (column `rankme`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rankme: bool,
    /// Block that represents the image, through the encoder's final norm: a number from 1, or `last-N` for the N last blocks side by side.
    /// Default: the last block.
    #[serde(default, skip_serializing_if = "Layer::is_default")]
    #[schemars(schema_with = "layer_schema")]
    pub layer: Layer,
}

/// Linear probing (MAE `main_linprobe.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearProbe {
    /// Passes over the train split. A last batch that is not whole is left out; the order differs in each.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images per step, at least 2, because BatchNorm needs the spread of a batch; larger than the split means the whole split.
    #[schemars(range(min = 2, max = MOST_IMAGES))]
    pub batch: usize,
    /// Learning rate at batch 256, or a list: each row and seed uses the best rate on a tenth of the train images that is held out.
    pub base_lr: Rates,
    /// Vector that represents the image.
    #[serde(default = "cls")]
    pub pooling: Pooling,
    /// Epochs of linear warm-up. Default: 10, or a tenth of `epochs` if there are fewer than 20.
    #[serde(default = "probe_warmup")]
    #[schemars(range(min = 0, max = MOST_EPOCHS))]
    pub warmup_epochs: f64,
    /// Weight decay.
    #[serde(default)]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub weight_decay: f64,
    /// Optimiser.
    #[serde(default = "lars")]
    pub optimizer: ProbeOptimizer,
    /// Augmentation; with `none` the features are computed only once.
    #[serde(default = "random_resized_crop_tf")]
    pub augment: Augment,
    /// Smallest and largest area of a random crop, as fractions of the image's.
    #[serde(default = "train_scale")]
    #[schemars(inner(range(min = 0, max = 1)))]
    pub crop_scale: [f64; 2],
    /// Block that represents the image, through the encoder's final norm: a number from 1, or `last-N` for the N last blocks side by side.
    /// Default: the last block.
    #[serde(default, skip_serializing_if = "Layer::is_default")]
    #[schemars(schema_with = "layer_schema")]
    pub layer: Layer,
}

/// Fine-tuning (MAE `main_finetune.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FineTune {
    /// Passes over the train split. A last batch that is not whole is left out; the order differs in each.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images per step; larger than the split means the whole split, and its size stands for `batch` in the learning rate, too.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    pub batch: usize,
    /// Learning rate at batch 256.
    #[schemars(range(max = MOST_RATE), extend("exclusiveMinimum" = 0))]
    pub base_lr: f64,
    /// Factor of the learning rate from a layer to the one below it.
    #[serde(default = "layer_decay")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub layer_decay: f64,
    /// Vector that represents the image.
    #[serde(default = "mean")]
    pub pooling: Pooling,
    /// Learning rate at batch 256 for the row without pretraining, whose layer decay is 1.0. Default: `base_lr`.
    #[serde(default)]
    #[schemars(range(max = MOST_RATE), extend("exclusiveMinimum" = 0))]
    pub from_scratch_base_lr: Option<f64>,
    /// Epochs of linear warm-up. Default: 5, or a tenth of `epochs` if there are fewer than 10.
    #[serde(default = "finetune_warmup")]
    #[schemars(range(min = 0, max = MOST_EPOCHS))]
    pub warmup_epochs: f64,
    /// Decoupled weight decay.
    #[serde(default = "decay")]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub weight_decay: f64,
    /// Final learning rate of the cosine schedule.
    #[serde(default = "finetune_min_lr")]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub min_lr: f64,
    /// Label smoothing.
    #[serde(default = "smoothing")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub label_smoothing: f64,
    /// Stochastic depth: drop probability of the last block, increasing linearly with depth.
    #[serde(default = "drop_path")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub drop_path: f64,
    /// Beta parameter of mixup; 0 is off.
    #[serde(default)]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub mixup: f64,
    /// Beta parameter of CutMix; 0 is off.
    #[serde(default)]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub cutmix: f64,
    /// Augmentation, drawn anew every epoch.
    #[serde(default = "random_resized_crop")]
    pub augment: Augment,
    /// Smallest and largest area of a random crop, as fractions of the image's.
    #[serde(default = "train_scale")]
    #[schemars(inner(range(min = 0, max = 1)))]
    pub crop_scale: [f64; 2],
    /// timm's RandAugment on the crop, for example `rand-m9-mstd0.5-inc1`, or `none`.
    #[serde(default = "auto_augment")]
    pub auto_augment: String,
    /// Probability that a box of the crop is replaced by noise (timm's random erasing, mode `pixel`).
    #[serde(default = "random_erasing")]
    #[schemars(range(min = 0, max = 1))]
    pub random_erasing: f64,
    /// Store only the blocks' inputs for the backward pass and recompute each block: less memory for activations, about a third more time,
    /// the same results (PyTorch's `torch.utils.checkpoint`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
}

impl FineTune {
    /// Parses `auto_augment`; `None` for `none`.
    ///
    /// # Errors
    /// If it is not a policy of timm's RandAugment.
    pub fn rand_augment(&self) -> Result<Option<RandAugment>, String> {
        match self.auto_augment.as_str() {
            "none" => Ok(None),
            text => RandAugment::parse(text).map(Some),
        }
    }
}

/// Content of the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Numbers of the paper's tables to include.
    #[serde(default)]
    #[schemars(length(max = 100), inner(range(min = 1, max = 100)))]
    pub tables: Vec<u32>,
    /// Include rows that saw labels in the correlations of metrics with accuracy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub labelled_in_fit: bool,
}

/// Parameters of the training-free metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Temperature of `tcas_sharp`.
    #[serde(default = "sharp_t")]
    #[schemars(range(max = MOST_RATE), extend("exclusiveMinimum" = 0))]
    pub tcas_sharp_t: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            tcas_sharp_t: sharp_t(),
        }
    }
}

// Values of the required fields of `pretrain` beside a checkpoint, which ignores them.
fn unused() -> usize {
    1
}
fn unused_rate() -> f64 {
    1.0
}
fn unused_ratio() -> f64 {
    0.75
}
pub(super) fn pretrain_scale() -> [f64; 2] {
    [0.2, 1.0]
}
fn cls() -> Pooling {
    Pooling::Cls
}
fn mean() -> Pooling {
    Pooling::Mean
}
fn neighbours() -> usize {
    20
}
fn temperature() -> f64 {
    0.07
}
fn layer_decay() -> f64 {
    0.75
}
fn lars() -> ProbeOptimizer {
    ProbeOptimizer::Lars
}
fn random_resized_crop() -> Augment {
    Augment::RandomResizedCrop
}
fn decay() -> f64 {
    0.05
}
pub(super) fn finetune_min_lr() -> f64 {
    1e-6
}
fn smoothing() -> f64 {
    0.1
}
fn drop_path() -> f64 {
    0.1
}
fn auto_augment() -> String {
    "rand-m9-mstd0.5-inc1".into()
}
fn random_erasing() -> f64 {
    0.25
}
fn sharp_t() -> f64 {
    0.002
}
