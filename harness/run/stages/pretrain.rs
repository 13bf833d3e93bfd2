//! `pretrain`: a fresh model against one tokenizer's targets; `import`: one that was pretrained elsewhere.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tessera_models::checkpoint;
use tessera_models::pretrain::{self, PretrainConfig};
use tessera_models::vit::{self, VitConfig};
use tessera_tokenizers::Split;

use super::fit::Fitted;
use super::sources::{Looks, WithTargets};
use super::tokens::{self, BothWays};
use super::{scan, training, with_skipped};
use crate::run::context::{Context, Images, Mode, StageError};
use crate::store::{Entry, Provenance};
use crate::suite::{Pretrain, Row};

const VERSION: u32 = 3;
const IMPORT_VERSION: u32 = 1;

/// Name of the checkpoint with its decoder, in the store and in the run folder.
pub const CHECKPOINT: &str = "pretrained.safetensors";

/// Name of the encoder alone: what `timm.create_model(..., num_classes=0)` loads strictly.
pub const ENCODER: &str = "encoder.safetensors";

/// The suite's model.
pub fn model(cx: &Context<'_>) -> Result<VitConfig, StageError> {
    let file = &cx.suite.file;
    let vit = file.vit();
    vit.ok_or_else(|| StageError::Failed(format!("no backbone {:?}", file.backbone.variant)))
}

/// The model of a row and a seed.
pub enum Made {
    /// The store hasn't it yet, or not what it is pretrained on.
    Missing,
    /// Nothing is pretrained.
    Random,
    /// Pretrained elsewhere.
    Imported(Entry),
    /// Pretrained here.
    Pretrained(Entry),
}

/// The model of `row` and `seed`, pretrained on `fitted`'s targets.
///
/// # Errors
/// [`StageError`].
pub fn model_of(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    row: &Row,
    fitted: Option<&Fitted>,
    seed: u64,
) -> Result<Made, StageError> {
    if let Some(path) = &row.checkpoint {
        let entry = import(cx, mode, &row.name, path)?;
        return Ok(entry.map_or(Made::Missing, Made::Imported));
    }
    let (Some(_), Some(recipe)) = (&row.tokenizer, &row.recipes.pretrain) else {
        return Ok(Made::Random);
    };
    let Some(fitted) = fitted else {
        return Ok(Made::Missing);
    };
    let label = format!("{}, seed {seed}", row.name);
    let entry = pretrain(cx, mode, images, &label, fitted, (recipe, seed))?;
    Ok(entry.map_or(Made::Missing, Made::Pretrained))
}

/// The encoder of the file at `path`, pretrained elsewhere.
///
/// # Errors
/// [`StageError`].
fn import(
    cx: &Context<'_>,
    mode: Mode,
    label: &str,
    path: &Path,
) -> Result<Option<Entry>, StageError> {
    let vit = model(cx)?;
    let hash = hash(path).map_err(|e| StageError::Failed(format!("{}: {e}", path.display())))?;
    let provenance = Provenance {
        stage: "import",
        label: label.to_owned(),
        inputs: json!({
            "version": IMPORT_VERSION,
            "file": hash,
            "backbone": cx.suite.file.backbone,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
        }),
    };
    cx.stage(mode, &provenance, |work| {
        let imported = checkpoint::import(path, &vit)?;
        let metadata = vit.metadata("none");
        imported.params.save(&work.out.join(ENCODER), metadata)?;
        Ok(json!({"positions_resampled_from": imported.resampled_from}))
    })
}

/// BLAKE3 of a file, in hex.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The model pretrained with `recipe`, seed `seed`, on `fitted`'s targets.
///
/// # Errors
/// [`StageError`].
fn pretrain(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    label: &str,
    fitted: &Fitted,
    (recipe, seed): (&Pretrain, u64),
) -> Result<Option<Entry>, StageError> {
    let vit = model(cx)?;
    let tokenizer = Arc::clone(&fitted.tokenizer);
    let engine = tokenizer.facts().engine;
    let provenance = Provenance {
        stage: "pretrain",
        label: label.to_owned(),
        inputs: json!({
            "version": VERSION,
            "tokenizer": tokenizer.fingerprint(),
            "images": scan::provenance(cx, images),
            "backbone": cx.suite.file.backbone,
            // The same numbers with and without.
            "recipe": Pretrain { gradient_checkpointing: false, ..recipe.clone() },
            "seed": seed,
            "numerics": cx.model_numerics(engine.as_deref()),
        }),
    };
    cx.stage(mode, &provenance, |work| {
        let target = tokenizer.target();
        let kept = tokens::are_kept(recipe, tokenizer.as_ref());
        let kept = kept.then(|| BothWays::keep(cx, images, tokenizer.as_ref()));
        let data = WithTargets {
            looks: Looks::train(cx, images, recipe.augment, recipe.crop_scale, seed),
            tokenizer: Arc::clone(&tokenizer),
            kept: kept.transpose()?,
        };
        let config = config(recipe, seed, images.dataset.len(Split::Train));
        let trained = training(cx, work, |run| {
            pretrain::pretrain(&vit, target, &config, &data, run)
        })?;
        let metadata = || vit.metadata("none");
        trained
            .params
            .save(&work.out.join(CHECKPOINT), metadata())?;
        let encoder = trained.params.copy(|name| !vit::is_of_decoder(name))?;
        encoder.save(&work.out.join(ENCODER), metadata())?;
        Ok(result(&trained.history))
    })
}

fn config(recipe: &Pretrain, seed: u64, images: usize) -> PretrainConfig {
    let batch = recipe.batch.min(images).max(1);
    PretrainConfig {
        epochs: recipe.epochs,
        batch,
        lr: super::scaled(recipe.base_lr, batch),
        warmup_epochs: recipe.warmup_epochs,
        weight_decay: recipe.weight_decay,
        mask_ratio: recipe.mask_ratio,
        label_smoothing: recipe.label_smoothing,
        gradient_checkpointing: recipe.gradient_checkpointing,
        seed,
    }
}

fn result(history: &[tessera_models::EpochRecord]) -> Value {
    let loss = history.last().map(|epoch| epoch.train_loss);
    with_skipped(json!({"loss": loss, "history": history}), history)
}
