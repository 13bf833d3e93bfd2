//! `scan`: which images there are, in which order, and which of them decode.

use std::sync::atomic::Ordering;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::data::{self, Dataset};
use crate::run::context::{Context, Images};
use crate::suite::Suite;

/// Scans the suite's dataset. Not a store entry: its result depends on the files themselves, whose digests are cached
/// in the store by size and time.
///
/// # Errors
/// When the images are not what the suite says, or the user asks to stop.
pub fn scan(cx: &Context<'_>) -> Result<Images, anyhow::Error> {
    let cache = cx.store.root().join("scan");
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let (reporter, stop) = (cx.reporter, cx.stop);
    let progress = |done: usize, total: usize, note: &str| reporter.progress(done, total, note);
    let start = std::time::Instant::now();
    cx.reporter.begin("scan", 0, 0, None);
    let scan = data::scan(&cx.suite.dataset, &cache, &progress, &|| {
        stop.load(Ordering::Relaxed)
    });
    let seconds = start.elapsed().as_secs_f64();
    let outcome = scan.as_ref().err().map(ToString::to_string);
    let outcome = match &outcome {
        Some(message) => crate::run::reporter::Outcome::Failed(message),
        None => crate::run::reporter::Outcome::Done,
    };
    cx.reporter.end("scan", seconds, outcome);
    let scan = scan?;
    let mut dataset = Dataset::open(&cx.suite.dataset, &scan)?;
    if let Some(side) = fast_side(cx) {
        dataset.decode_for(side);
    }
    Ok(Images { scan, dataset })
}

/// What later stages' provenance says about the images.
pub fn provenance(cx: &Context<'_>, images: &Images) -> serde_json::Value {
    let file = &cx.suite.file;
    let mut about = json!({
        "dataset": images.scan.fingerprint,
        "image_size": file.image_size,
        "patch_size": file.patch_size,
        "eval_transform": file.eval_transform,
    });
    if let Some(side) = fast_side(cx) {
        about["fast_decode"] = json!(side);
    }
    about
}

/// With `fast_decode`, the largest side that is rendered: the model's input and every row's `input.side`. All rows of the
/// file count, so that `--only` changes no pixels.
fn fast_side(cx: &Context<'_>) -> Option<usize> {
    finest(cx.suite)
}

/// [`BuildContext::finest`](tessera_tokenizers::BuildContext::finest) of a suite.
pub fn finest(suite: &Suite) -> Option<usize> {
    let fast = suite.dataset.decoding().fast;
    let sides = inputs(&suite.resolved["tokenizers"]);
    fast.then(|| sides.into_iter().fold(suite.file.image_size, usize::max))
}

/// Every `input: {side: ...}` within a configuration.
fn inputs(config: &Value) -> Vec<usize> {
    let side = config["input"]["side"].as_u64().map(|side| side as usize);
    let within: Vec<&Value> = match config {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    side.into_iter()
        .chain(within.into_iter().flat_map(inputs))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_found_at_any_depth() {
        let rows = json!([
            {"kind": "onnx-ids", "with": {"input": {"side": 112, "scale": "zero-one"}}},
            {"kind": "kmeans", "with": {"features": {"kind": "onnx", "input": {"side": 224}}, "k": 5}},
            {"kind": "kmeans", "with": {"features": {"kind": "pixels"}}},
        ]);
        assert_eq!(inputs(&rows), [112, 224]);
    }
}
