//! `count`: counts the ids of the train split under the evaluation transform.

use std::io;

use anyhow::bail;
use serde_json::{Value, json};
use tessera_models::Targets;
use tessera_tokenizers::{Split, Tokenizer};

use super::common::context::StageError;
use super::common::rates::{Cost, NPY, Rates};
use super::common::stage::{Artifact, Inputs, Produced, Product, Stage};
use super::common::targets::each_batch;
use super::tokens;
use crate::data::ViewPlan;
use crate::metrics::arrangement::{self, Arrangement};
use crate::metrics::{
    CountError, Counts, CountsWriter, DENSE_CELLS, DENSE_FILE, Estimate, SPARSE_FILE,
};
use crate::store::{Entry, Workspace};
use crate::suite::Row;

const VERSION: u32 = 3;
/// Field of the result: the metrics of [`arrangement`].
pub const ARRANGEMENT: &str = "arrangement";

/// The counts of a row with ids.
pub struct Count<'a> {
    /// The row.
    pub row: &'a Row,
    /// Index of the fit.
    pub fit: usize,
}

impl Stage for Count<'_> {
    fn name(&self) -> &'static str {
        "count"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        vec![Artifact::Tokenizer(&self.row.name, self.fit)]
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(Artifact::Counts(&self.row.name, self.fit))
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let tokenizer = on.tokenizer()?;
        Ok(json!({
            "version": VERSION,
            "tokenizer": tokenizer.fingerprint(),
            "images": on.images.provenance(on.cx),
            "classes": on.images.scan.classes.len(),
            "numerics": on.cx.numerics(tokenizer.facts().engine.as_deref()),
        }))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let [train, _] = rates.counts();
        let classes = rates.images.scan.classes.len() as f64;
        let codes = rates.codes(self.row).unwrap_or(0);
        let cells = codes as f64 * classes;
        let pairs = train * rates.sampled(self.row).tokens;
        let (dense, sparse) = (8.0 * cells, 24.0 * pairs.min(cells));
        let is_dense = cells <= DENSE_CELLS as f64;
        let table = NPY + if is_dense { dense } else { sparse };
        // images.npy has three numbers per image and id, and images.labels.npy one per image.
        let images = 2.0 * NPY + 12.0 * pairs + 4.0 * train;
        let counting = if is_dense { dense } else { 0.0 };
        let places = arrangement::PASSES as f64 * train * rates.vit.num_patches() as f64;
        Ok(Cost {
            seconds: rates.decoding(train)
                + train * rates.tokenize(self.row)
                + places * arrangement::SECONDS,
            memory: rates.base()
                + rates.tokenizer_memory(self.row)
                + counting.max(arrangement::memory(codes, rates.vit.num_patches()) as f64),
            disk: rates.disk(images + table, table, rates.cells(self.fit)),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (counts, arrangement) = counts(on, on.tokenizer()?.as_ref(), work)?;
        Ok(json!({
            "images": counts.num_images(),
            "codebook_size": counts.codebook_size,
            ARRANGEMENT: arrangement,
        }))
    }

    fn product<'a>(&self, _: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        Ok(Product::Counts(entry.clone()))
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[DENSE_FILE, SPARSE_FILE]
    }
}

fn counts(
    on: &Inputs<'_>,
    tokenizer: &dyn Tokenizer,
    work: &Workspace<'_>,
) -> anyhow::Result<(Counts, Vec<Estimate>)> {
    let Some(codes) = tokenizer.target().codebook_size() else {
        bail!(
            "the tokenizer gives values, which cannot be counted; its factory must return their target in `plan`"
        );
    };
    let (cx, images) = (on.cx, on.images);
    let size = (codes, images.scan.classes.len());
    let mut counts = CountsWriter::create(work.out, work.out, size, cx.launcher.as_ref())?;
    let grid = tokenizer.grid();
    let mut places = Arrangement::new((grid.rows, grid.cols), codes, work.out);
    let labels = images.dataset.labels(Split::Train);
    let mut add = |start: usize, ids: &[u32], images: usize| {
        places.add(ids)?;
        anyhow::Ok(counts.add(ids, &labels[start..start + images])?)
    };
    let recipe = cx.suite.file.pretrain.as_ref();
    if recipe.is_some_and(|recipe| tokens::are_stored(recipe, tokenizer)) {
        // Pretraining needs the same ids.
        tokens::ids(on, tokenizer, false)?.each_batch(add)?;
    } else {
        let view = (Split::Train, ViewPlan::Eval);
        each_batch(cx, images, tokenizer, view, |start, targets| {
            let Targets::Ids(ids) = targets else {
                bail!("only ids can be counted");
            };
            add(start, &ids.flatten_all()?.to_vec1()?, ids.dim(0)?)
        })?;
    }
    // First, because it checks the ids.
    let counts = counts.finish()?;
    let estimates = places.estimates(&|| cx.interrupted());
    let of = |error| match error {
        CountError::Io(error) => interruption(error),
        other => other.into(),
    };
    Ok((counts, estimates.map_err(of)?))
}

/// Converts an interruption into one that the run recognises.
pub(super) fn interruption(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => tessera_models::Error::Interrupted.into(),
        _ => error.into(),
    }
}
