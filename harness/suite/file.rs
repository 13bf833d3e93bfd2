//! The top level of a suite file as the user writes it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tessera_models::Precision;
use tessera_models::vit::{self, VitConfig};
use tessera_tokenizers::config::expected_one_of;
use tessera_tokenizers::view::MOST_PIXELS;
use tessera_tokenizers::{Config, ConfigError, Grid};

use super::rates::is_positive;
use super::recipe::{
    FineTune, Knn, LinearProbe, Metrics, Pretrain, Recipes, Report, check_pretrain_fields,
};
use crate::data::EvalTransform;

/// The fields of a suite file except `tokenizers`, whose entries are parsed separately.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// Version of this format: 1.
    pub version: u32,
    /// Name of the suite; its run folder is `runs/NAME`.
    pub name: String,
    /// Seeds of pretraining and evaluation; every tokenizer gets one model per seed.
    pub seeds: Vec<u64>,
    /// Seed of the codebooks, shared by all `seeds`.
    #[serde(default)]
    pub fit_seed: u64,
    /// The images: `{kind: ..., ...}`, see `bench list datasets`.
    pub dataset: Value,
    /// Side of the model's input in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// The part of an image that is evaluated.
    pub eval_transform: EvalTransform,
    /// The model.
    pub backbone: Backbone,
    /// Rows without a tokenizer.
    #[serde(default)]
    pub baselines: Vec<Baseline>,
    /// Name of the row with which the others are compared. Default: the identity row, else the row without pretraining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Masked pretraining; without it the suite only scores.
    #[serde(default)]
    pub pretrain: Option<Pretrain>,
    /// k-NN on frozen features; skipped if absent.
    #[serde(default)]
    pub knn: Option<Knn>,
    /// Linear probing; skipped if absent.
    #[serde(default)]
    pub linear_probe: Option<LinearProbe>,
    /// Fine-tuning; skipped if absent.
    #[serde(default)]
    pub fine_tune: Option<FineTune>,
    /// Parameters of the training-free metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// Type of matrix products in training and evaluation; `--precision` overrides it.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// Content of the report.
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
    /// bf16; parameters, moments, sums of gradients and statistics stay f32. Slow on a CPU, only for tests.
    Bf16,
}

impl PrecisionChoice {
    /// Returns the precision on a GPU or on the CPU.
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
    /// Size of the model, see `bench list backbones`.
    pub variant: String,
}

/// A row without a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// A random encoder, probed without training and fine-tuned from scratch.
    NoPretraining,
}

impl SuiteFile {
    /// Returns the model's patch grid.
    pub fn grid(&self) -> Grid {
        let side = self.image_size / self.patch_size;
        Grid {
            rows: side,
            cols: side,
        }
    }

    /// Returns the model; `None` for an unknown variant, which the check of the suite refuses.
    pub fn vit(&self) -> Option<VitConfig> {
        Some(VitConfig {
            preset: vit::preset(&self.backbone.variant)?,
            image_size: self.image_size,
            patch_size: self.patch_size,
        })
    }

    /// Returns the recipes of rows without `override:`.
    pub fn recipes(&self) -> Recipes {
        Recipes {
            pretrain: self.pretrain.clone(),
            knn: self.knn.clone(),
            linear_probe: self.linear_probe.clone(),
            fine_tune: self.fine_tune.clone(),
        }
    }

    /// Checks conditions that the types do not express.
    pub(super) fn check(&self, at: &Config) -> Result<(), ConfigError> {
        let checks = [
            self.check_identity(),
            self.check_sizes(),
            self.check_model(),
            self.check_tables(),
            self.check_metrics(),
        ];
        for check in checks {
            check.map_err(|(field, message)| at.error(field, message))?;
        }
        if let Some(Value::Object(written)) = at.value().get("pretrain") {
            check_pretrain_fields(written, at, "pretrain")?;
        }
        self.recipes().check(at)
    }

    fn check_identity(&self) -> Checked {
        if self.version != 1 {
            let message = format!("found {}, this program reads 1", self.version);
            return Err(("version", message));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(is_name) {
            let message = format!(
                "found {:?}, expected letters, digits, `-`, `_`, `.` (it names the run folder)",
                self.name
            );
            return Err(("name", message));
        }
        let seeds: BTreeSet<u64> = self.seeds.iter().copied().collect();
        if seeds.is_empty() || seeds.len() != self.seeds.len() {
            let message = format!("found {:?}, expected at least one, each once", self.seeds);
            return Err(("seeds", message));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Checked {
        let (image, patch) = (self.image_size, self.patch_size);
        if !(1..=MOST_PIXELS).contains(&image) {
            let message =
                format!("found {image}, expected at least 1 and at most {MOST_PIXELS} pixels");
            return Err(("image_size", message));
        }
        if patch == 0 || !image.is_multiple_of(patch) {
            let message = format!("found {patch}, expected a divisor of image_size ({image})");
            return Err(("patch_size", message));
        }
        let EvalTransform {
            resize_shorter,
            crop,
        } = self.eval_transform;
        if resize_shorter > MOST_PIXELS {
            let message = format!("found {resize_shorter}, expected at most {MOST_PIXELS} pixels");
            return Err(("eval_transform.resize_shorter", message));
        }
        if crop == 0 || crop > resize_shorter {
            let message =
                format!("found crop {crop}, expected 1..=resize_shorter ({resize_shorter})");
            return Err(("eval_transform", message));
        }
        Ok(())
    }

    fn check_model(&self) -> Checked {
        let variant = &self.backbone.variant;
        if vit::preset(variant).is_none() {
            let names = vit::PRESETS.iter().map(|p| p.name);
            let message = format!("unknown `{variant}`, {}", expected_one_of(variant, names));
            return Err(("backbone.variant", message));
        }
        let evaluates =
            self.knn.is_some() || self.linear_probe.is_some() || self.fine_tune.is_some();
        if self.pretrain.is_none() && evaluates {
            let message = "missing, but knn, linear_probe and fine_tune evaluate a pretrained model; write `pretrain:` or leave them out";
            return Err(("pretrain", message.into()));
        }
        Ok(())
    }

    fn check_metrics(&self) -> Checked {
        let temperature = self.metrics.tcas_sharp_t;
        if is_positive(temperature) {
            return Ok(());
        }
        let message = format!("found {temperature}, expected a finite number above 0");
        Err(("metrics.tcas_sharp_t", message))
    }

    fn check_tables(&self) -> Checked {
        let known = tessera_reports::tables();
        let is_known = |table: &&u32| known.iter().any(|t| t.number == **table);
        match self.report.tables.iter().find(|table| !is_known(table)) {
            Some(table) => {
                let message = format!("no table {table}; see `bench list tables`");
                Err(("report.tables", message))
            }
            None => Ok(()),
        }
    }
}

/// The error is the wrong field and the message.
type Checked = Result<(), (&'static str, String)>;
