//! `fit`: a row's tokenizer, learned from the train split or built as it is.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tessera_reports::Record;
use tessera_tokenizers::{BuildContext, Config, RowEncoder, TokenizerFactory, kmeans};

use super::common::context::{Context, StageError};
use super::common::rates::{BASE, Cost, Rates};
use super::common::stage::{Artifact, Done, Inputs, Product, Stage};
use crate::data::TrainStream;
use crate::store::{Entry, StoreError, Workspace};
use crate::suite::Row;

const VERSION: u32 = 1;

/// The tokenizer of a row.
pub struct Fit<'a> {
    row: &'a Row,
    kind: &'a str,
    with: &'a Config,
    learns: bool,
    /// Codebooks are fitted once for all seeds: on encoders of the first.
    first_seed: u64,
}

impl<'a> Fit<'a> {
    /// `None` for a row without a tokenizer.
    pub fn of(cx: &Context<'a>, row: &'a Row) -> Option<Self> {
        let (kind, with) = row.tokenizer.as_ref()?;
        let factory = cx.registry.tokenizer(kind, with);
        Some(Self {
            row,
            kind,
            with,
            learns: factory.is_ok_and(|factory| factory.learns()),
            first_seed: cx.suite.file.seeds.first().copied().unwrap_or_default(),
        })
    }

    fn with_factory<R>(
        &self,
        on: &Inputs<'_>,
        work: impl FnOnce(&dyn TokenizerFactory, &BuildContext<'_>) -> tessera_tokenizers::Result<R>,
    ) -> tessera_tokenizers::Result<R> {
        let encoders = on.encoders();
        let encoders: BTreeMap<String, RowEncoder> = encoders
            .map(|encoder| (encoder.origin.row.clone(), encoder.of_row()))
            .collect();
        let rows = |name: &str| {
            let found = encoders.get(name).cloned();
            found
                .ok_or_else(|| format!("row {name:?} was not asked for when the suite was checked"))
        };
        on.cx
            .with_encoders(Some(on.images.counts()), &rows, |build| {
                work(on.cx.registry.tokenizer(self.kind, self.with)?, build)
            })
    }
}

impl Stage for Fit<'_> {
    fn name(&self) -> &'static str {
        "fit"
    }

    fn label(&self) -> String {
        self.row.name.clone()
    }

    fn is_stored(&self) -> bool {
        self.learns
    }

    fn needs(&self) -> Vec<Artifact> {
        let rows = self.row.after.iter();
        rows.map(|name| Artifact::Encoder(name.clone(), self.first_seed))
            .collect()
    }

    fn gives(&self) -> Option<Artifact> {
        Some(Artifact::Tokenizer(self.row.name.clone()))
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let inputs = self.with_factory(on, |factory, build| factory.fit_inputs(self.with, build));
        Ok(json!({
            "version": VERSION,
            "kind": self.kind,
            "inputs": inputs.map_err(failed)?,
            "fit_seed": on.cx.suite.file.fit_seed,
            "images": on.images.provenance(on.cx),
            "numerics": on.cx.numerics(None),
        }))
    }

    /// Features once where a temporary file holds them, else in every pass; and a product per epoch.
    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let [train, _] = rates.counts();
        let vit = &rates.vit;
        let field = |name: &str| self.with.value().get(name).and_then(Value::as_f64);
        let epochs = field("epochs").unwrap_or(1.0);
        let per_patch = 2.0 * field("k").unwrap_or(1.0) * 3.0 * vit.patch_size.pow(2) as f64;
        let products = epochs * train * vit.num_patches() as f64 * per_patch / rates.flops;
        let restarts = field("restarts").unwrap_or(1.0);
        let dim = rates.cx.features(self.with).map_or(0, |f| f.dim());
        let features = 4.0 * train * vit.num_patches() as f64 * dim as f64;
        let passes = match features > kmeans::KEPT_BYTES as f64 {
            true => epochs * restarts,
            false => 1.0,
        };
        let tokenize = rates.tokenize(self.row);
        Ok(Cost {
            seconds: passes * train * (rates.decode + tokenize) + restarts * products,
            memory: BASE,
            disk: 0.0,
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let file = &on.cx.suite.file;
        let stream = TrainStream::new(&on.images.dataset, file.eval_transform);
        let tokenizer = self.with_factory(on, |factory, build| {
            factory.fit(self.with, &stream, file.fit_seed, build)
        })?;
        tokenizer.save(work.out)?;
        Ok(json!({"fingerprint": tokenizer.fingerprint(), "found": tokenizer.fit_report()}))
    }

    fn product<'a>(
        &self,
        on: &Inputs<'a>,
        entry: Option<&Entry>,
    ) -> Result<Product<'a>, StageError> {
        let tokenizer = self.with_factory(on, |factory, build| match entry {
            Some(entry) => factory.load(self.with, &entry.dir, build),
            None => factory.build(self.with, build),
        });
        let tokenizer = tokenizer.map_err(failed)?;
        let (found, expected) = (tokenizer.grid(), on.cx.suite.grid());
        if found != expected {
            return Err(StageError::Failed(format!(
                "the tokenizer gives a {found} grid, image_size and patch_size ask for {expected}"
            )));
        }
        Ok(Product::Tokenizer(tokenizer.into()))
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["codebook.safetensors"]
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) {
        if let Product::Tokenizer(tokenizer) = &done.product {
            let facts = tokenizer.facts();
            record.codebook_size = tokenizer.target().codebook_size();
            record.kmeans_epochs = facts.kmeans_epochs;
            record.saw_labels = facts.saw_labels;
            record.engine = facts.engine.unwrap_or_default();
        }
        record.fit_seconds = done.seconds();
    }
}

fn failed(error: tessera_tokenizers::Error) -> StageError {
    StageError::from(StoreError::Stage(error.into()))
}
