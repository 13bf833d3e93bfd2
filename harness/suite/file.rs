//! The top level of a suite file, as the user writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tessera_models::Precision;
use tessera_models::vit::{self, VitConfig};
use tessera_tokenizers::{Config, ConfigError, Grid};

use super::recipe::{
    FineTune, Knn, LinearProbe, Metrics, Pretrain, Recipes, Report, check_pretrain_fields,
};
use super::row::Row;
use crate::data::EvalTransform;

/// The fields of a suite file but `tokenizers`, whose entries are parsed one by one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// Version of this format: 1.
    pub version: u32,
    /// Name of the suite; its run folder is `runs/NAME`.
    pub name: String,
    /// One model per tokenizer and seed.
    pub seeds: Vec<u64>,
    /// Seed of the codebooks, the same for all `seeds`.
    #[serde(default)]
    pub fit_seed: u64,
    /// The images: `{kind: ..., ...}`, see `bench list datasets`.
    pub dataset: Value,
    /// Side of the model's input, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// What part of an image is evaluated.
    pub eval_transform: EvalTransform,
    /// The model.
    pub backbone: Backbone,
    /// Rows without a tokenizer.
    #[serde(default)]
    pub baselines: Vec<Baseline>,
    /// Masked pretraining; without it the suite only scores.
    #[serde(default)]
    pub pretrain: Option<Pretrain>,
    /// k-NN on frozen features; not done when absent.
    #[serde(default)]
    pub knn: Option<Knn>,
    /// Linear probing; not done when absent.
    #[serde(default)]
    pub linear_probe: Option<LinearProbe>,
    /// Fine-tuning; not done when absent.
    #[serde(default)]
    pub fine_tune: Option<FineTune>,
    /// Knobs of the training-free metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// The type of matrix products in training and evaluation; `--precision` goes before it.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// What is written.
    #[serde(default)]
    pub report: Report,
}

/// A precision, or the device's usual one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionChoice {
    /// bf16 on a GPU, f32 on the CPU.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16; parameters, moments, sums of gradients and statistics stay f32. On a CPU slow, for checking.
    Bf16,
}

impl PrecisionChoice {
    /// What it means on a GPU, or without one.
    pub fn on(self, gpu: bool) -> Precision {
        match (self, gpu) {
            (Self::F32, _) | (Self::Auto, false) => Precision::F32,
            (Self::Bf16, _) | (Self::Auto, true) => Precision::Bf16,
        }
    }
}

/// The model that is pretrained.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backbone {
    /// Its size, see `bench list backbones`.
    pub variant: String,
}

/// A row without a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// A random encoder: probed as it is, fine-tuned from scratch.
    NoPretraining,
}

impl SuiteFile {
    /// The model's patch grid.
    pub fn grid(&self) -> Grid {
        let side = self.image_size / self.patch_size;
        Grid {
            rows: side,
            cols: side,
        }
    }

    /// The model; `None` for a variant that the check of the suite refuses.
    pub fn vit(&self) -> Option<VitConfig> {
        Some(VitConfig {
            preset: vit::preset(&self.backbone.variant)?,
            image_size: self.image_size,
            patch_size: self.patch_size,
        })
    }

    /// What is done with every row that overrides nothing.
    pub fn recipes(&self) -> Recipes {
        Recipes {
            pretrain: self.pretrain.clone(),
            knn: self.knn.clone(),
            linear_probe: self.linear_probe.clone(),
            fine_tune: self.fine_tune.clone(),
        }
    }

    /// Checks what types cannot say.
    pub(super) fn check(&self, at: &Config) -> Result<(), ConfigError> {
        let refuse = |field: &str, message: String| Err(at.error(field, message));
        if self.version != 1 {
            return refuse(
                "version",
                format!("found {}, this program reads 1", self.version),
            );
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(is_name) {
            let found = &self.name;
            return refuse(
                "name",
                format!(
                    "found {found:?}, expected letters, digits, `-`, `_`, `.` (it names the run folder)"
                ),
            );
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() != self.seeds.len() {
            return refuse(
                "seeds",
                format!("found {:?}, expected at least one, each once", self.seeds),
            );
        }
        if self.patch_size == 0
            || self.image_size == 0
            || !self.image_size.is_multiple_of(self.patch_size)
        {
            return refuse(
                "patch_size",
                format!(
                    "{} does not divide image_size {}",
                    self.patch_size, self.image_size
                ),
            );
        }
        let EvalTransform {
            resize_shorter,
            crop,
        } = self.eval_transform;
        if crop == 0 || crop > resize_shorter {
            return refuse(
                "eval_transform",
                format!("crop {crop} must lie in 1..=resize_shorter ({resize_shorter})"),
            );
        }
        if vit::preset(&self.backbone.variant).is_none() {
            let names: Vec<&str> = vit::PRESETS.iter().map(|p| p.name).collect();
            return refuse(
                "backbone.variant",
                format!(
                    "unknown `{}`, expected one of {}",
                    self.backbone.variant,
                    names.join(", ")
                ),
            );
        }
        if self.pretrain.is_none()
            && (self.knn.is_some() || self.linear_probe.is_some() || self.fine_tune.is_some())
        {
            return refuse("pretrain", "missing: knn, linear_probe and fine_tune evaluate a pretrained model; write `pretrain:` or leave them out".into());
        }
        if let Some(Value::Object(written)) = at.value().get("pretrain") {
            check_pretrain_fields(written, at, "pretrain")?;
        }
        for table in &self.report.tables {
            if !tessera_reports::tables().iter().any(|t| t.number == *table) {
                return refuse(
                    "report.tables",
                    format!("no table {table}; see `bench list tables`"),
                );
            }
        }
        self.recipes().check(at)
    }
}

/// The suite with everything filled in: what `RUN_DIR/suite.yaml` holds.
pub(super) fn resolved(file: &SuiteFile, rows: &[Row]) -> Value {
    let mut value = json!(file);
    let tokenizers: Vec<Value> = rows.iter().filter_map(Row::resolved).collect();
    value["tokenizers"] = Value::Array(tokenizers);
    value
}
