//! `random`: the encoder of a row that pretrains nothing, made anew from the seed in every run.

use serde_json::{Value, json};
use tessera_reports::Record;

use super::common::context::StageError;
use super::common::encoder::{Encoder, Origin};
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Inputs, Product, Stage};
use crate::store::{Entry, Workspace};
use crate::suite::Row;

/// The random encoder of a row and a seed.
pub struct Random<'a> {
    row: &'a Row,
    seed: u64,
}

impl<'a> Random<'a> {
    /// `None` for a row that is pretrained, here or elsewhere.
    pub fn of(row: &'a Row, seed: u64) -> Option<Self> {
        let trained = row.is_pretrained() || row.checkpoint.is_some();
        (!trained).then_some(Self { row, seed })
    }
}

impl Stage for Random<'_> {
    fn name(&self) -> &'static str {
        "random"
    }

    fn label(&self) -> String {
        format!("{}, seed {}", self.row.name, self.seed)
    }

    fn is_stored(&self) -> bool {
        false
    }

    fn needs(&self) -> Vec<Artifact> {
        // A tokenizer that cannot be fitted ends its row.
        let tokenizer = self.row.tokenizer.is_some();
        let tokenizer = tokenizer.then(|| Artifact::Tokenizer(self.row.name.clone()));
        tokenizer.into_iter().collect()
    }

    fn gives(&self) -> Option<Artifact> {
        Some(Artifact::Encoder(self.row.name.clone(), self.seed))
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        Ok(json!({self.name(): self.seed, "backbone": on.cx.suite.file.backbone}))
    }

    fn cost(&self, _: &Rates<'_>) -> anyhow::Result<Cost> {
        Ok(Cost::default())
    }

    fn run(&self, _: &Inputs<'_>, _: &Workspace<'_>) -> anyhow::Result<Value> {
        Ok(Value::Null)
    }

    fn product<'a>(&self, on: &Inputs<'a>, _: Option<&Entry>) -> Result<Product<'a>, StageError> {
        let origin = Origin {
            row: self.row.name.clone(),
            seed: self.seed,
            provenance: self.provenance(on)?,
            checkpoint: None,
            saw_labels: false,
        };
        let encoder = Encoder::new(on.cx, on.images, on.cx.vit()?, origin);
        Ok(Product::Encoder(encoder))
    }

    fn describe(&self, record: &mut Record) {
        if self.row.tokenizer.is_none() {
            record.encoder = "random".into();
        }
    }
}
