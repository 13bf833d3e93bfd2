//! `import`: the encoder of a checkpoint that was pretrained elsewhere.

use std::path::Path;

use serde_json::{Value, json};
use tessera_models::checkpoint;
use tessera_reports::Record;

use super::common::context::StageError;
use super::common::encoder::{ENCODER, Encoder, Origin};
use super::common::rates::{BASE, Cost, Rates};
use super::common::stage::{Artifact, Inputs, Product, Stage};
use crate::store::{Entry, Workspace};
use crate::suite::Row;

const VERSION: u32 = 1;

/// The imported encoder of a row; all seeds share the entry.
pub struct Import<'a> {
    row: &'a Row,
    path: &'a Path,
    seed: u64,
}

impl<'a> Import<'a> {
    /// `None` for a row without a checkpoint.
    pub fn of(row: &'a Row, seed: u64) -> Option<Self> {
        let path = row.checkpoint.as_deref()?;
        Some(Self { row, path, seed })
    }
}

impl Stage for Import<'_> {
    fn name(&self) -> &'static str {
        "import"
    }

    fn label(&self) -> String {
        self.row.name.clone()
    }

    fn needs(&self) -> Vec<Artifact> {
        let tokenizer = self.row.tokenizer.is_some();
        let tokenizer = tokenizer.then(|| Artifact::Tokenizer(self.row.name.clone()));
        tokenizer.into_iter().collect()
    }

    fn gives(&self) -> Option<Artifact> {
        Some(Artifact::Encoder(self.row.name.clone(), self.seed))
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let vit = on.cx.vit()?;
        let failed = |e| StageError::Failed(format!("{}: {e}", self.path.display()));
        Ok(json!({
            "version": VERSION,
            "file": hash(self.path).map_err(failed)?,
            "backbone": on.cx.suite.file.backbone,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
        }))
    }

    fn cost(&self, _: &Rates<'_>) -> anyhow::Result<Cost> {
        Ok(Cost::of_memory(BASE))
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let vit = on.cx.vit()?;
        let imported = checkpoint::import(self.path, &vit)?;
        let metadata = vit.metadata("none");
        imported.params.save(&work.out.join(ENCODER), metadata)?;
        Ok(json!({"positions_resampled_from": imported.resampled_from}))
    }

    fn product<'a>(
        &self,
        on: &Inputs<'a>,
        entry: Option<&Entry>,
    ) -> Result<Product<'a>, StageError> {
        let Some(entry) = entry else {
            return Ok(Product::Nothing);
        };
        let origin = Origin {
            row: self.row.name.clone(),
            seed: self.seed,
            provenance: json!({ self.name(): entry.key }),
            checkpoint: Some(entry.dir.join(ENCODER)),
            saw_labels: (on.tokenizer()).is_ok_and(|tokenizer| tokenizer.facts().saw_labels),
        };
        let encoder = Encoder::new(on.cx, on.images, on.cx.vit()?, origin);
        Ok(Product::Encoder(encoder))
    }

    fn describe(&self, record: &mut Record) {
        record.encoder = "imported".into();
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[ENCODER]
    }
}

/// BLAKE3 of a file, in hex.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
