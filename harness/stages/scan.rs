//! `scan`: lists the images and their order, and finds those that do not decode.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::common::context::{Context, Images};
use super::common::reporter::Outcome;
use crate::data::{self, DataError, Dataset, Scan, snapshot};
use crate::store::Provenance;

/// Name of the scan on the terminal, in the graph and of its folder in the store.
pub const NAME: &str = "scan";
/// File of a stored scan.
const FILE: &str = "scan.bin";

/// Returns the images of the suite's dataset: those of the stored scan that the context names, or of a new scan. The store caches digests of
/// files by path, size, times and inode.
///
/// # Errors
/// If the images are not those that the suite describes or the context names, or the user interrupts.
pub fn scan(cx: &Context<'_>) -> Result<Images, anyhow::Error> {
    let scan = match cx.store.again(|| stored(cx))? {
        Some(scan) => scan,
        None => of_files(cx)?,
    };
    let mut dataset = Dataset::open(cx.suite.dataset.as_ref(), &scan)?;
    if let Some(side) = cx.suite.finest {
        dataset.decode_for(side);
    }
    Ok(Images { scan, dataset })
}

/// Scans the files, and checks that their fingerprint is the one that the context names.
fn of_files(cx: &Context<'_>) -> Result<Scan, anyhow::Error> {
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
    if let Some(expected) = &cx.scan {
        let found = &scan.fingerprint.0;
        ensure!(
            found == expected,
            "--scan {expected}: the images have fingerprint {found} now, and the store has no scan of this suite with the expected one; \
             run `bench plan` again and use the fingerprint that it prints"
        );
    }
    Ok(scan)
}

/// Returns the stored scan that the context names, if there is one.
fn stored(cx: &Context<'_>) -> anyhow::Result<Option<Scan>> {
    let Some(fingerprint) = &cx.scan else {
        return Ok(None);
    };
    let Some(provenance) = provenance(cx, fingerprint)? else {
        return Ok(None);
    };
    match cx.store.lookup(&provenance)? {
        Some(entry) => {
            let path = entry.file(FILE)?;
            let scan = snapshot::read(&path, fingerprint);
            Ok(Some(scan.with_context(|| path.display().to_string())?))
        }
        None => Ok(None),
    }
}

/// Stores the scan for other machines, unless every machine must scan for itself.
///
/// # Errors
/// If the store cannot be written, or the user interrupts.
pub fn keep(cx: &Context<'_>, images: &Images) -> anyhow::Result<()> {
    let Some(mut provenance) = provenance(cx, &images.scan.fingerprint.0)? else {
        return Ok(());
    };
    provenance.label.clone_from(&images.scan.name);
    cx.store.get_or(&provenance, &|| cx.interrupted(), |work| {
        snapshot::write(&images.scan, &work.out.join(FILE))?;
        Ok(json!({"images": images.counts()}))
    })?;
    Ok(())
}

/// Returns the provenance of a stored scan. Its key follows from the suite and the fingerprint alone.
fn provenance(cx: &Context<'_>, fingerprint: &str) -> anyhow::Result<Option<Provenance>> {
    let about = cx.suite.dataset.snapshot()?;
    Ok(about.map(|about| Provenance {
        stage: NAME,
        label: NAME.into(),
        inputs: json!({"version": snapshot::VERSION, "dataset": about, "fingerprint": fingerprint}),
    }))
}
