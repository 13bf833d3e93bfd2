//! `count`: the ids of the train split under the evaluation transform; `metrics`: what they say.

use std::io;

use anyhow::bail;
use rayon::prelude::*;
use serde_json::json;
use tessera_models::Targets;
use tessera_tokenizers::{Split, Tokenizer};

use super::fit::Fitted;
use super::scan;
use crate::data::ViewPlan;
use crate::metrics::{self, Counts, CountsWriter, Estimate};
use crate::run::context::{Context, Images, Mode, StageError};
use crate::store::{Entry, Provenance, Workspace};

const COUNT_VERSION: u32 = 2;
const METRICS_VERSION: u32 = 2;

/// Images per call of a tokenizer: a constant, so that a batched engine gives the same ids on any number of threads.
pub const BATCH: usize = 32;

/// Targets of a whole split, batch by batch in scan order, at most a few batches in memory.
///
/// # Errors
/// When the tokenizer or the images fail, when `take` does, or the user asks to stop.
pub fn each_batch(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    split: Split,
    mut take: impl FnMut(usize, Targets) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let total = images.dataset.len(split);
    let (spec, patches) = (tokenizer.target(), tokenizer.grid().num_patches());
    let eval = cx.suite.file.eval_transform;
    let one = |start: usize| -> anyhow::Result<Targets> {
        let indices: Vec<usize> = (start..(start + BATCH).min(total)).collect();
        let view = images.dataset.view(split, &indices, ViewPlan::Eval, eval)?;
        let targets = tokenizer.tokenize(&view.as_view())?;
        Ok(targets.checked(spec, indices.len(), patches)?)
    };
    let starts: Vec<usize> = (0..total).step_by(BATCH).collect();
    for window in starts.chunks(4 * cx.threads.max(1)) {
        if cx.interrupted() {
            return Err(tessera_models::Error::Interrupted.into());
        }
        let done: Vec<Targets> = one_window(window, &one)?;
        for (start, targets) in window.iter().zip(done) {
            take(*start, targets)?;
        }
        let seen = window.last().map_or(0, |start| (start + BATCH).min(total));
        cx.reporter.progress(seen, total, "images");
    }
    Ok(())
}

fn one_window<T: Send>(
    window: &[usize],
    one: &(impl Fn(usize) -> anyhow::Result<T> + Sync),
) -> anyhow::Result<Vec<T>> {
    window.par_iter().map(|start| one(*start)).collect()
}

/// The counts of a row with ids.
///
/// # Errors
/// [`StageError`].
pub fn count(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    label: &str,
    fitted: &Fitted,
) -> Result<Option<Entry>, StageError> {
    let tokenizer = fitted.tokenizer.as_ref();
    let engine = tokenizer.facts().engine;
    let provenance = Provenance {
        stage: "count",
        label: label.to_owned(),
        inputs: json!({
            "version": COUNT_VERSION,
            "tokenizer": tokenizer.fingerprint(),
            "images": scan::provenance(cx, images),
            "classes": images.scan.classes.len(),
            "numerics": cx.numerics(engine.as_deref()),
        }),
    };
    cx.stage(mode, &provenance, |work| {
        let counts = counts(cx, images, tokenizer, work)?;
        Ok(json!({"images": counts.num_images(), "codebook_size": counts.codebook_size}))
    })
}

fn counts(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    work: &Workspace<'_>,
) -> anyhow::Result<Counts> {
    let Some(codes) = tokenizer.target().codebook_size() else {
        bail!("only ids can be counted");
    };
    let classes = images.scan.classes.len();
    let mut counts = CountsWriter::create(work.out, work.state, codes, classes)?;
    let labels = images.dataset.labels(Split::Train);
    each_batch(cx, images, tokenizer, Split::Train, |start, targets| {
        let Targets::Ids(ids) = targets else {
            bail!("only ids can be counted");
        };
        let labels = &labels[start..start + ids.dim(0)?];
        Ok(counts.add(&ids.flatten_all()?.to_vec1()?, labels)?)
    })?;
    Ok(counts.finish()?)
}

/// Every training-free metric of counted ids, with its null and its error.
///
/// # Errors
/// [`StageError`].
pub fn metrics(
    cx: &Context<'_>,
    mode: Mode,
    label: &str,
    counted: &Entry,
) -> Result<Option<Vec<Estimate>>, StageError> {
    let sharp_t = cx.suite.file.metrics.tcas_sharp_t;
    let provenance = Provenance {
        stage: "metrics",
        label: label.to_owned(),
        inputs: json!({"version": METRICS_VERSION, "count": counted.key, "tcas_sharp_t": sharp_t}),
    };
    let entry = cx.stage(mode, &provenance, |work| {
        let counts = Counts::open(&counted.dir)?;
        let stop = || cx.interrupted();
        let estimates = metrics::estimate(&counts, sharp_t, 0, work.state, &stop);
        Ok(json!(estimates.map_err(stopped)?))
    })?;
    entry
        .map(|entry| serde_json::from_value(entry.result).map_err(super::unreadable))
        .transpose()
}

/// An interruption that says so to the run.
fn stopped(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => tessera_models::Error::Interrupted.into(),
        _ => error.into(),
    }
}
