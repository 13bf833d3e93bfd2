//! `fit`: fits or builds a row's tokenizer.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};
use tessera_reports::Record;
use tessera_tokenizers::{
    BuildContext, Config, Needs, Programs, RowEncoder, Tokenizer, TokenizerFactory,
};

use super::common::context::{Context, StageError};
use super::common::encoder::Encoder;
use super::common::rates::{Cost, Rates};
use super::common::reporter::Outcome;
use super::common::stage::{Artifact, Done, Inputs, Produced, Product, Stage};
use crate::data::TrainStream;
use crate::store::{Entry, StoreError, Workspace};
use crate::suite::Row;

const VERSION: u32 = 1;
/// Images that a thread holds while K-means extracts their features.
const FITTED_AT_ONCE: usize = 16;

/// The tokenizer of a row.
pub struct Fit<'a> {
    row: &'a Row,
    kind: &'a str,
    with: &'a Config,
    learns: bool,
    /// Index of the fit.
    fit: usize,
    seed: u64,
    /// Codebooks are fitted once for all seeds, on encoders of the first.
    first_seed: u64,
}

impl<'a> Fit<'a> {
    /// Returns the stage with the fit seed of index `fit`; `None` for a row without a tokenizer.
    pub fn of(cx: &Context<'a>, row: &'a Row, fit: usize) -> Option<Self> {
        let (kind, with) = row.tokenizer.as_ref()?;
        let factory = cx.registry.tokenizer(kind, with);
        Some(Self {
            row,
            kind,
            with,
            learns: factory.is_ok_and(|factory| factory.learns()),
            fit,
            seed: cx.suite.fit_seeds.get(fit).copied()?,
            first_seed: cx.suite.file.seeds.first().copied().unwrap_or_default(),
        })
    }

    fn with_factory<R>(
        &self,
        on: &Inputs<'_>,
        work: impl FnOnce(&dyn TokenizerFactory, &BuildContext<'_>) -> tessera_tokenizers::Result<R>,
    ) -> tessera_tokenizers::Result<R> {
        let of_row = |encoder: &Encoder<'_>| encoder.of_row().map_err(|error| error.to_string());
        let encoders: BTreeMap<String, Result<RowEncoder, String>> = (on.encoders())
            .map(|encoder| (encoder.origin.row.clone(), of_row(encoder)))
            .collect();
        let rows = |name: &str| match encoders.get(name) {
            Some(encoder) => encoder.clone(),
            None => Err(format!(
                "row {name:?} was not requested when the suite was checked"
            )),
        };
        let factory = on.cx.registry.tokenizer(self.kind, self.with)?;
        let labels = on.images.labels_for(factory);
        on.cx
            .with_encoders(Some(on.images.counts()), &rows, |build| {
                work(factory, &BuildContext { labels, ..*build })
            })
    }
}

impl Fit<'_> {
    /// Builds the tokenizer and checks that its grid equals the suite's, and that it says so if it received labels.
    fn checked<'a>(
        &self,
        on: &Inputs<'a>,
        build: impl FnOnce(&dyn TokenizerFactory, &BuildContext<'_>) -> Built,
    ) -> Produced<'a> {
        let built = self.with_factory(on, |factory, cx| Ok((factory.needs(), build(factory, cx)?)));
        let (needs, tokenizer) = built.map_err(failed)?;
        if needs == Needs::Labels && !tokenizer.facts().saw_labels {
            return Err(StageError::Failed(format!(
                "found `saw_labels: false` in the facts of kind {:?}, expected true, because it receives labels (`Needs::Labels`)",
                self.kind
            )));
        }
        let (found, expected) = (tokenizer.grid(), on.cx.suite.grid());
        if found != expected {
            return Err(StageError::Failed(format!(
                "found a {found} grid of the tokenizer, expected {expected} by image_size and patch_size"
            )));
        }
        Ok(Product::Tokenizer(tokenizer.into()))
    }
}

type Built = tessera_tokenizers::Result<Box<dyn Tokenizer>>;

impl Stage for Fit<'_> {
    fn name(&self) -> &'static str {
        "fit"
    }

    fn is_stored(&self) -> bool {
        self.learns
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        let rows = self.row.after.iter();
        rows.map(|name| Artifact::Encoder(name, self.first_seed))
            .collect()
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(Artifact::Tokenizer(&self.row.name, self.fit))
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let inputs = self.with_factory(on, |factory, build| factory.fit_inputs(self.with, build));
        Ok(json!({
            "version": VERSION,
            "kind": self.kind,
            "inputs": inputs.map_err(failed)?,
            "fit_seed": self.seed,
            "images": on.images.provenance(on.cx),
            "numerics": on.cx.numerics(None),
        }))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let cost = rates.plan(self.row).and_then(|plan| plan.fit);
        // A fit that only draws reads no image, so the decoding of all is not its own.
        let reads = cost.filter(|cost| cost.images > 0.0);
        let decoding = reads.map_or(0.0, |cost| rates.decoding(cost.images));
        let (seconds, memory) = cost.map_or((0.0, 0.0), |cost| {
            let seconds = decoding + cost.images * rates.tokenize(self.row);
            (seconds + cost.flops / rates.flops, cost.memory)
        });
        let images = reads.map_or(0.0, |_| rates.counts()[0]);
        let held = rates.held.by_all(FITTED_AT_ONCE, images);
        let found = rates.sampled(self.row);
        let (saved, picture) = (found.saved, found.picture * rates.cells(self.fit) as f64);
        Ok(Cost {
            seconds,
            memory: rates.base() + rates.tokenizer_memory(self.row) + memory + held,
            disk: rates.disk(saved, saved, rates.cells(self.fit)) + picture,
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let file = &on.cx.suite.file;
        let stream = TrainStream::new(&on.images.dataset, file.eval_transform);
        let tokenizer = self.with_factory(on, |factory, build| {
            factory.fit(self.with, &stream, self.seed, build)
        })?;
        tokenizer.save(work.out)?;
        Ok(json!({"fingerprint": tokenizer.fingerprint(), "found": tokenizer.fit_report()}))
    }

    fn product<'a>(&self, on: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let folder = entry.whole()?;
        self.checked(on, |factory, build| factory.load(self.with, folder, build))
    }

    fn build<'a>(&self, on: &Inputs<'a>) -> Produced<'a> {
        let opened = || self.checked(on, |factory, build| factory.build(self.with, build));
        let factory = on.cx.registry.tokenizer(self.kind, self.with);
        let starts = factory.is_ok_and(|factory| factory.starts_programs());
        if !starts || on.cx.programs != Programs::Start {
            return opened();
        }
        // Programs load their models first, one after another.
        let (label, start) = (format!("program: {}", self.row.name), Instant::now());
        on.cx.reporter.begin(&label, 0, 0, None);
        let opened = opened();
        let error = opened.as_ref().err().map(ToString::to_string);
        let outcome = match (&opened, &error) {
            (Err(StageError::Interrupted), _) => Outcome::Interrupted,
            (_, Some(error)) => Outcome::Failed(error),
            (_, None) => Outcome::Done,
        };
        on.cx
            .reporter
            .end(&label, start.elapsed().as_secs_f64(), outcome);
        opened
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["codebook.safetensors"]
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        if let Product::Tokenizer(tokenizer) = &done.product {
            let facts = tokenizer.facts();
            let target = tokenizer.target();
            record.codebook_size = target.codebook_size();
            let sizes = target.groups().map(|groups| groups.sizes().to_vec());
            let sizes: Vec<String> = sizes.iter().flatten().map(u32::to_string).collect();
            record.code_groups = sizes.join(" ");
            record.kmeans_epochs = facts.kmeans_epochs;
            record.saw_labels = facts.saw_labels;
            record.features_checkpoint = facts.checkpoint().unwrap_or_default().to_owned();
            record.engine = facts.engine.unwrap_or_default();
        }
        Ok(())
    }
}

fn failed(error: tessera_tokenizers::Error) -> StageError {
    StageError::from(StoreError::Stage(error.into()))
}
