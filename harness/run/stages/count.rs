//! `count`: the ids of the train split under the evaluation transform; `metrics`: what they say.

use std::io;

use anyhow::bail;
use serde_json::json;
use tessera_models::Targets;
use tessera_tokenizers::{Split, Tokenizer};

use super::fit::Fitted;
use super::targets::each_batch;
use super::{scan, tokens};
use crate::data::ViewPlan;
use crate::metrics::{self, Counts, CountsWriter, Estimate};
use crate::run::context::{Context, Images, Mode, StageError};
use crate::store::{Entry, Provenance, Workspace};

const COUNT_VERSION: u32 = 2;

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
    let mut counts =
        CountsWriter::create(work.out, work.state, (codes, classes), cx.launcher.as_ref())?;
    let labels = images.dataset.labels(Split::Train);
    let mut add = |start: usize, ids: &[u32], images: usize| {
        anyhow::Ok(counts.add(ids, &labels[start..start + images])?)
    };
    let recipe = cx.suite.file.pretrain.as_ref();
    if recipe.is_some_and(|recipe| tokens::are_kept(recipe, tokenizer)) {
        // Pretraining will ask for the same ids.
        tokens::keep(cx, images, tokenizer, ViewPlan::Eval)?.each_batch(add)?;
        return Ok(counts.finish()?);
    }
    let plan = ViewPlan::Eval;
    each_batch(
        cx,
        images,
        tokenizer,
        (Split::Train, plan),
        |start, targets| {
            let Targets::Ids(ids) = targets else {
                bail!("only ids can be counted");
            };
            add(start, &ids.flatten_all()?.to_vec1()?, ids.dim(0)?)
        },
    )?;
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
        inputs: json!({"version": metrics::VERSION, "count": counted.key, "tcas_sharp_t": sharp_t}),
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
