//! `decoded`: the pixels of all images in the store, for suites that say `decoded_cache: u8`.
//!
//! No stage names it in its key: it changes no pixel.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::bail;
use serde_json::{Value, json};

use super::common::context::{Context, Images, StageError};
use super::common::rates::{BASE, Cost, Rates, pins};
use super::common::stage::{Inputs, Stage};
use crate::store::{Entry, Workspace, free_bytes};

const VERSION: u32 = 1;
const FILE: &str = "pixels.u8";
/// Bytes of disk that stay free beside the pixels, for results.
const SPARE: u64 = 256 << 20;

/// The pixels of all images of a suite that says `decoded_cache: u8`.
pub struct Decoded {
    /// For people.
    pub label: String,
    bytes: u64,
}

impl Decoded {
    /// `None` for a suite that does not store them.
    pub fn of(cx: &Context<'_>, images: &Images) -> Option<Self> {
        let bytes = images.cached_bytes(cx)?;
        let [train, val] = images.counts();
        let label = format!("{}, {} images", images.scan.name, train + val);
        Some(Self { label, bytes })
    }

    /// Has the images taken from the `entry`.
    ///
    /// # Errors
    /// When the file cannot be mapped.
    pub fn attach(&self, on: &Inputs<'_>, entry: &Entry) -> anyhow::Result<()> {
        let (dataset, path) = (&on.images.dataset, entry.file(FILE)?);
        match &on.cx.launcher {
            Some(device) if pins(on.cx, self.bytes) => dataset.use_decoded_on(&path, device)?,
            _ => dataset.use_decoded(&path)?,
        }
        Ok(())
    }
}

impl Stage for Decoded {
    fn name(&self) -> &'static str {
        "decoded"
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        Ok(json!({"version": VERSION, "images": on.images.scan.fingerprint}))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        check_room(rates.cx.store.root(), self.bytes)?;
        let [train, val] = rates.counts();
        Ok(Cost {
            seconds: rates.decode_whole * (train + val),
            memory: BASE,
            disk: self.bytes as f64,
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        check_room(on.cx.store.root(), self.bytes)?;
        let (reporter, stop) = (on.cx.reporter, on.cx.stop);
        let progress = |done: usize, total: usize, note: &str| {
            reporter.progress(done, total, note);
        };
        let stop = || stop.load(Ordering::Relaxed);
        let path = work.out.join(FILE);
        (on.images.dataset).write_decoded(&path, &progress, &stop)?;
        Ok(json!({"bytes": self.bytes}))
    }
}

/// Refuses what the disk has no room for, before any of it is written.
///
/// # Errors
/// How much there is, how much is needed, and what to do.
fn check_room(store: &Path, bytes: u64) -> anyhow::Result<()> {
    let free = match free_bytes(store) {
        // Unknown: writing will tell.
        None => return Ok(()),
        Some(free) => free,
    };
    if bytes.saturating_add(SPARE) > free {
        let (bytes, free) = (bytes as f64 / 1e9, free as f64 / 1e9);
        bail!(
            "{}: found {free:.1} GB free, expected {bytes:.1} GB and some for dataset.decoded_cache; make room (`bench store gc`), \
             choose another disk with --store DIR, or leave out `decoded_cache`",
            store.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_room(dir.path(), 0).unwrap();
        let error = check_room(dir.path(), u64::MAX).unwrap_err().to_string();
        for part in [
            "GB free",
            "decoded_cache",
            "--store",
            &dir.path().display().to_string(),
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
