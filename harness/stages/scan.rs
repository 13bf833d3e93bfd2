//! `scan`: lists the images and their order, and finds those that do not decode.

use std::sync::atomic::Ordering;

use anyhow::Context as _;

use super::common::context::{Context, Images};
use super::common::reporter::Outcome;
use crate::data::{self, DataError, Dataset};

/// Name of the scan on the terminal, in the graph and of its folder in the store.
pub const NAME: &str = "scan";

/// Scans the suite's dataset. The result depends on the files, so it is not a store entry. The store caches digests of files by path, size,
/// times and inode.
///
/// # Errors
/// If the images are not those that the suite describes, or the user interrupts.
pub fn scan(cx: &Context<'_>) -> Result<Images, anyhow::Error> {
    let cache = cx.store.root().join(NAME);
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let (reporter, stop) = (cx.reporter, cx.stop);
    let progress = |done: usize, total: usize, note: &str| reporter.progress(done, total, note);
    let start = std::time::Instant::now();
    cx.reporter.begin(NAME, 0, 0, None);
    let scan = data::scan(cx.suite.dataset.as_ref(), &cache, &progress, &|| {
        stop.load(Ordering::Relaxed)
    });
    let seconds = start.elapsed().as_secs_f64();
    let message = scan.as_ref().err().map(ToString::to_string);
    let outcome = match (&scan, &message) {
        (Err(DataError::Interrupted), _) => Outcome::Interrupted,
        (_, Some(message)) => Outcome::Failed(message),
        _ => Outcome::Done,
    };
    cx.reporter.end(NAME, seconds, outcome);
    let scan = scan?;
    let mut dataset = Dataset::open(cx.suite.dataset.as_ref(), &scan)?;
    if let Some(side) = cx.suite.finest {
        dataset.decode_for(side);
    }
    Ok(Images { scan, dataset })
}
