//! `random`: draws the encoder of a row without pretraining from the seed, and keeps it for other programs.

use serde_json::{Value, json};
use tessera_models::cost::Task;
use tessera_models::vit;
use tessera_reports::Record;

use super::common::context::StageError;
use super::common::encoder::{ENCODER, Encoder, Origin};
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Inputs, Produced, Product, Stage};
use crate::store::{Entry, Workspace};

const VERSION: u32 = 1;

/// The random encoder of a row and a seed.
pub type Random<'a> = Cell<'a, ()>;

impl Stage for Random<'_> {
    fn name(&self) -> &'static str {
        "random"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        self.tokenizer().into_iter().collect()
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(self.encoder())
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let file = &on.cx.suite.file;
        Ok(json!({
            "version": VERSION,
            "seed": self.seed,
            "backbone": file.backbone,
            "image_size": file.image_size,
            "patch_size": file.patch_size,
        }))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let file = rates.parameters(Task::Encode);
        Ok(Cost {
            memory: rates.base() + 2.0 * file,
            disk: rates.disk(file, file, 1),
            ..Cost::default()
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let vit = on.cx.vit()?;
        let drawn = vit::encoder(&vit, self.seed)?;
        drawn.save(&work.out.join(ENCODER), vit.metadata("none", false))?;
        Ok(Value::Null)
    }

    fn product<'a>(&self, on: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let origin = Origin {
            row: self.row.name.clone(),
            seed: self.seed,
            provenance: json!({ self.name(): entry.key }),
            checkpoint: (entry.clone(), ENCODER),
            saw_labels: false,
        };
        let encoder = Encoder::new(on.cx, on.images, origin)?;
        Ok(Product::Encoder(Box::new(encoder)))
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[ENCODER]
    }

    fn describe(&self, record: &mut Record) {
        if self.row.tokenizer.is_none() {
            record.encoder = "random".into();
        }
    }
}
