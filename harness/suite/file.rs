//! The top level of a suite file as the user writes it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tessera_models::Precision;
use tessera_models::vit::{self, VitConfig};
use tessera_tokenizers::config::expected_one_of;
use tessera_tokenizers::view::MOST_PIXELS;
use tessera_tokenizers::{Config, ConfigError, Grid};

use super::probes::{AttentiveProbe, BagOfTokens};
use super::recipe::{
    FineTune, Knn, LinearProbe, Metrics, Pretrain, Recipes, Report, check_pretrain_fields,
};
use crate::data::EvalTransform;

/// The fields of a suite file except `tokenizers`, whose entries are parsed separately.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// Version of this format: 1.
    #[serde(default = "version")]
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Name of the suite; its run folder is `runs/NAME`. Default: the name of the file.
    #[serde(default)]
    pub name: String,
    /// Folder to which paths in this file are relative; it is itself relative to this file. Default: the folder of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_to: Option<String>,
    /// Seeds of pretraining and evaluation; every tokenizer gets one model per seed.
    #[serde(default = "seeds")]
    #[schemars(length(min = 1, max = MOST_SEEDS), inner(range(min = 0, max = u64::MAX)))]
    pub seeds: Vec<u64>,
    /// Short form of `fit_seeds` with one seed.
    #[serde(default, skip_serializing)]
    #[schemars(range(min = 0, max = u64::MAX))]
    fit_seed: Option<u64>,
    /// Seeds of the codebooks that are fitted, each once for all `seeds`. Training-free metrics are means over all, with errors over
    /// images and fits; pretraining uses the first. Default: `[0, 1, 2]` if the run only scores, otherwise `[0]`.
    #[serde(default, skip_serializing)]
    #[schemars(length(min = 1, max = MOST_SEEDS), inner(range(min = 0, max = u64::MAX)))]
    fit_seeds: Option<Vec<u64>>,
    /// The images: `{kind: ..., ...}`, see `bench list datasets`.
    pub dataset: Value,
    /// Side of the model's input in pixels.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub image_size: usize,
    /// Side of a patch in pixels.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub patch_size: usize,
    /// The part of an image that is evaluated. Default: the largest square in its centre.
    #[serde(default)]
    pub eval_transform: EvalTransform,
    /// The model. Required beside `pretrain`; default: nano.
    #[serde(default)]
    pub backbone: Backbone,
    /// Rows without a tokenizer.
    #[serde(default)]
    #[schemars(length(max = 1))]
    pub baselines: Vec<Baseline>,
    /// Name of the row with which the others are compared. Default: the first `continuous` row with `identity` in its name, else the row without pretraining.
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
    /// Attentive probing; skipped if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attentive_probe: Option<AttentiveProbe>,
    /// Accuracy of a linear classifier on the counts of codes, without an encoder; skipped if absent. `{}` has usual values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bag_of_tokens: Option<BagOfTokens>,
    /// Parameters of the training-free metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// Type of matrix products in training and evaluation; `--precision` overrides it.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// Content of the report.
    #[serde(default)]
    pub report: Report,
    /// Here only for the lists of fields in errors. The schema of its rows is in `schema.rs`.
    #[serde(default, skip_serializing, rename = "tokenizers")]
    #[schemars(with = "Value")]
    _tokenizers: IgnoredAny,
    /// Recipes whose warm-up follows from their epochs.
    #[serde(skip)]
    #[schemars(skip)]
    pub warmed: Vec<&'static str>,
}

/// Every row is trained once per seed.
const MOST_SEEDS: usize = 1000;

/// Self-attention compares all pairs of patches.
const MOST_PATCHES: usize = 1 << 16;

/// It names a folder; file systems take 255 bytes, and temporary names add to it.
const MOST_BYTES: usize = 200;

/// A precision, or the device's usual one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionChoice {
    /// bf16 on a GPU, f32 on the CPU.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16; parameters, moments, sums and statistics stay f32. Faster than f32 on a CPU with AVX-512 BF16, slow on others.
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

impl Default for Backbone {
    /// Scoring uses no model.
    fn default() -> Self {
        Self {
            variant: "nano".into(),
        }
    }
}

fn version() -> u32 {
    1
}

fn seeds() -> Vec<u64> {
    vec![0]
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

    /// Returns the seeds of the codebooks, if the file states them.
    pub(super) fn fit_seeds(&self) -> Option<Vec<u64>> {
        let one = self.fit_seed.map(|seed| vec![seed]);
        self.fit_seeds.clone().or(one)
    }

    /// Returns the recipes of rows without `override:`.
    pub fn recipes(&self) -> Recipes {
        Recipes {
            pretrain: self.pretrain.clone(),
            knn: self.knn.clone(),
            linear_probe: self.linear_probe.clone(),
            fine_tune: self.fine_tune.clone(),
            attentive_probe: self.attentive_probe.clone(),
            bag_of_tokens: self.bag_of_tokens.clone(),
        }
    }

    /// Checks conditions that the types do not express.
    pub(super) fn check(&self, at: &Config) -> Result<(), ConfigError> {
        let checks = [
            self.check_identity(),
            self.check_sizes(),
            self.check_model(),
            self.check_tables(),
        ];
        for check in checks {
            check.map_err(|(field, message)| at.error(field, message))?;
        }
        if let Some(Value::Object(written)) = at.value().get("pretrain") {
            check_pretrain_fields(written, at, "pretrain")?;
            if at.value().get("backbone").is_none() {
                let message = "missing beside `pretrain`; write `backbone: {variant: NAME}` with a name of `bench list backbones`";
                return Err(at.error("backbone", message));
            }
        }
        self.recipes().check(at, self.vit())
    }

    fn check_identity(&self) -> Checked {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(is_name) {
            let message = format!(
                "found {:?}, expected letters, digits, `-`, `_`, `.` (it names the run folder)",
                self.name
            );
            return Err(("name", message));
        }
        if self.name.len() > MOST_BYTES {
            let found = self.name.len();
            let message = format!(
                "found {found} letters, expected at most {MOST_BYTES} (it names the run folder)"
            );
            return Err(("name", message));
        }
        check_seeds("seeds", &self.seeds)?;
        let Some(fits) = &self.fit_seeds else {
            return Ok(());
        };
        if let Some(seed) = self.fit_seed {
            let message = format!(
                "found {seed} beside `fit_seeds: {fits:?}`, expected one of the two; leave `fit_seed` out"
            );
            return Err(("fit_seed", message));
        }
        check_seeds("fit_seeds", fits)
    }

    fn check_sizes(&self) -> Checked {
        let (image, patch) = (self.image_size, self.patch_size);
        if !image.is_multiple_of(patch) {
            let message = format!("found {patch}, expected a divisor of image_size ({image})");
            return Err(("patch_size", message));
        }
        let patches = self.grid().num_patches();
        if patches > MOST_PATCHES {
            let message = format!(
                "found {patch}, which gives {patches} patches per image, expected at most {MOST_PATCHES}"
            );
            return Err(("patch_size", message));
        }
        if patches < 2 && self.pretrain.is_some() {
            let message = format!(
                "found {patch}, the whole image, expected at most half of image_size ({image}): pretraining hides some patches and sees others"
            );
            return Err(("patch_size", message));
        }
        let EvalTransform {
            resize_shorter,
            crop,
        } = self.eval_transform;
        if crop > resize_shorter {
            let message =
                format!("found {crop}, expected at most resize_shorter ({resize_shorter})");
            return Err(("eval_transform.crop", message));
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
        if self.pretrain.is_none() && self.recipes().evaluations() > 0 {
            let message = "missing, but knn, linear_probe, attentive_probe and fine_tune evaluate a pretrained model; write `pretrain:` or leave them out";
            return Err(("pretrain", message.into()));
        }
        Ok(())
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

/// Refuses an empty list and a seed that occurs twice.
fn check_seeds(field: &'static str, seeds: &[u64]) -> Checked {
    let unique: BTreeSet<&u64> = seeds.iter().collect();
    if unique.is_empty() || unique.len() != seeds.len() {
        let message = format!("found {seeds:?}, expected at least one, each once");
        return Err((field, message));
    }
    Ok(())
}

/// The error is the wrong field and the message.
type Checked = Result<(), (&'static str, String)>;
