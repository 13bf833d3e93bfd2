//! `random`: draws the encoder of a row without pretraining from the seed, in every run.

use serde_json::{Value, json};
use tessera_reports::Record;

use super::common::context::StageError;
use super::common::encoder::{Encoder, Origin};
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Inputs, Produced, Product, Stage};
use crate::store::Workspace;

/// The random encoder of a row and a seed.
pub type Random<'a> = Cell<'a, ()>;

impl Stage for Random<'_> {
    fn name(&self) -> &'static str {
        "random"
    }

    fn is_stored(&self) -> bool {
        false
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        self.tokenizer().into_iter().collect()
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(self.encoder())
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

    fn build<'a>(&self, on: &Inputs<'a>) -> Produced<'a> {
        let origin = Origin {
            row: self.row.name.clone(),
            seed: self.seed,
            provenance: self.provenance(on)?,
            checkpoint: None,
            saw_labels: false,
        };
        let encoder = Encoder::new(on.cx, on.images, origin)?;
        Ok(Product::Encoder(Box::new(encoder)))
    }

    fn describe(&self, record: &mut Record) {
        if self.row.tokenizer.is_none() {
            record.encoder = "random".into();
        }
    }
}
