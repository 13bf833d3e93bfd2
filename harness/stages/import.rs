//! `import`: reads the encoder of a checkpoint that was pretrained elsewhere.

use std::path::Path;

use serde_json::{Value, json};
use tessera_models::checkpoint;
use tessera_models::cost::Task;
use tessera_reports::Record;
use tessera_tokenizers::Scale;

use super::common::context::StageError;
use super::common::encoder::{ENCODER, Encoder, Origin};
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Done, Inputs, Produced, Product, Stage};
use crate::store::{Entry, Workspace};

const VERSION: u32 = 1;
/// Fields of the result.
const PREFIX: &str = "prefix";
const LEFT_OUT: &str = "left_out";
const RESAMPLED: &str = "positions_resampled_from";

/// The imported encoder of a row and a seed; all seeds share the entry.
pub type Import<'a> = Cell<'a, &'a Path>;

impl Stage for Import<'_> {
    fn name(&self) -> &'static str {
        "import"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        self.tokenizer().into_iter().collect()
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(self.encoder())
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let vit = on.cx.vit()?;
        let failed = |e| StageError::Failed(format!("{}: {e}", self.recipe.display()));
        let mut about = json!({
            "version": VERSION,
            "file": hash(self.recipe).map_err(failed)?,
            "backbone": on.cx.suite.file.backbone,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
        });
        if let Some(prefix) = self.row.checkpoint_prefix() {
            about["prefix"] = json!(prefix);
        }
        if let Some(scale) = self.row.checkpoint_scale() {
            about["scale"] = json!(scale);
        }
        Ok(about)
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let file = rates.parameters(Task::Encode);
        let read = std::fs::metadata(self.recipe).map_or(0, |about| about.len());
        Ok(Cost {
            memory: rates.base() + 2.0 * read as f64 + file,
            disk: rates.disk(file, file, 1),
            ..Cost::default()
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let vit = on.cx.vit()?;
        let imported = checkpoint::import(self.recipe, &vit, self.row.checkpoint_prefix())?;
        if let Some(scale) = self.row.checkpoint_scale() {
            scale
                .fold_into(&imported.params)
                .map_err(anyhow::Error::msg)?;
        }
        let metadata = vit.metadata("none", self.row.encoder_saw_labels());
        imported.params.save(&work.out.join(ENCODER), metadata)?;
        Ok(
            json!({RESAMPLED: imported.resampled_from, PREFIX: imported.prefix, LEFT_OUT: imported.left_out}),
        )
    }

    fn product<'a>(&self, on: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let origin = Origin {
            row: self.row.name.clone(),
            seed: self.seed,
            provenance: json!({ self.name(): entry.key }),
            checkpoint: (entry.clone(), ENCODER),
            saw_labels: self.row.encoder_saw_labels()
                || (on.tokenizer()).is_ok_and(|tokenizer| tokenizer.facts().saw_labels),
        };
        let encoder = Encoder::new(on.cx, on.images, origin)?;
        Ok(Product::Encoder(Box::new(encoder)))
    }

    fn describe(&self, record: &mut Record) {
        record.encoder = "imported".into();
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        let about = done.entry.as_ref().map(|entry| &entry.result);
        let prefix = about.and_then(|about| about[PREFIX].as_str());
        let from = about.and_then(|about| about[RESAMPLED].as_u64());
        let name = self.recipe.file_name().unwrap_or_default();
        let left_out = about.and_then(|about| about[LEFT_OUT].as_str());
        let taken = |prefix| {
            let (name, from) = (name.to_string_lossy(), from.map(|n| n as usize));
            let scale = self.row.checkpoint_scale().unwrap_or(Scale::Imagenet);
            let of = (&*name, &*scale.to_string());
            checkpoint::taken(of, prefix, from, left_out.unwrap_or_default())
        };
        record.encoder_checkpoint = prefix.map(taken).unwrap_or_default();
        record.saw_labels |= self.row.encoder_saw_labels();
        Ok(())
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[ENCODER]
    }
}

/// Returns the BLAKE3 digest of a file, in hex.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(tessera_models::files::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
