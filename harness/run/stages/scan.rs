//! `scan`: which images there are, in which order, and which of them decode.

use anyhow::Context as _;
use serde_json::json;

use crate::data::{self, Dataset};
use crate::run::context::{Context, Images, StageError};

/// Scans the suite's dataset. Not a store entry: its result depends on the files themselves, whose digests are cached
/// in the store by size and time.
///
/// # Errors
/// [`StageError`].
pub fn scan(cx: &Context<'_>) -> Result<Images, anyhow::Error> {
    let cache = cx.store.root().join("scan");
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let progress = |done: usize, total: usize, note: &str| cx.reporter.progress(done, total, note);
    let start = std::time::Instant::now();
    cx.reporter.begin("scan", 0, 0, None);
    let scan = data::scan(&cx.suite.dataset, &cache, &progress, &|| cx.interrupted());
    let seconds = start.elapsed().as_secs_f64();
    let outcome = scan.as_ref().err().map(ToString::to_string);
    let outcome = match &outcome {
        Some(message) => crate::run::reporter::Outcome::Failed(message),
        None => crate::run::reporter::Outcome::Done,
    };
    cx.reporter.end("scan", seconds, outcome);
    let scan = scan?;
    let dataset = Dataset::open(&cx.suite.dataset, &scan)?;
    Ok(Images { scan, dataset })
}

/// Whether an error of [`scan`] is the user's wish to stop.
pub fn stage_error(error: &anyhow::Error) -> Option<StageError> {
    let stopped = matches!(error.downcast_ref(), Some(data::DataError::Interrupted));
    stopped.then_some(StageError::Interrupted)
}

/// What later stages' provenance says about the images.
pub fn provenance(cx: &Context<'_>, images: &Images) -> serde_json::Value {
    let file = &cx.suite.file;
    json!({
        "dataset": images.scan.fingerprint,
        "image_size": file.image_size,
        "patch_size": file.patch_size,
        "eval_transform": file.eval_transform,
    })
}
