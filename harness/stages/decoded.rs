//! `decoded`: stores the pixels of all images, for suites with `decoded_cache: u8`.
//!
//! It is part of no other stage's key, because it changes no pixel.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::bail;
use serde_json::{Value, json};

use super::common::context::{Context, Images, StageError};
use super::common::rates::{Cost, Rates};
use super::common::stage::{Inputs, Stage};
use crate::data::written_at_once;
use crate::store::{Entry, Held, Workspace, free_bytes};

const VERSION: u32 = 1;
const FILE: &str = "pixels.u8";
/// Bytes of disk that must stay free for results.
const SPARE: u64 = 256 << 20;

/// The decoded pixels of all images of a suite.
pub struct Decoded {
    /// Label for users.
    pub label: String,
    bytes: u64,
}

impl Decoded {
    /// Returns the stage; `None` if the suite does not store decoded pixels.
    pub fn of(cx: &Context<'_>, images: &Images) -> Option<Self> {
        let bytes = images.cached_bytes(cx)?;
        let [train, val] = images.counts();
        let label = format!("{}, {} images", images.scan.name, train + val);
        Some(Self { label, bytes })
    }

    /// Makes the dataset read its images from `entry`, and returns the file; results are stored only if it has not changed until then.
    ///
    /// # Errors
    /// If the file cannot be mapped.
    pub fn attach(&self, on: &Inputs<'_>, entry: &Entry) -> anyhow::Result<Arc<Held>> {
        let file = entry.hold(FILE)?;
        on.images.dataset.use_decoded(&file.path)?;
        Ok(file)
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
        let total: usize = rates.images.counts().iter().sum();
        let written = written_at_once(total, self.bytes, rates.cx.threads.max(1));
        Ok(Cost {
            seconds: rates.decode_whole * total as f64,
            memory: rates.base() + written,
            disk: rates.disk(self.bytes as f64, 0.0, 0),
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

/// Checks the free disk space before anything is written.
///
/// # Errors
/// The free and the required space, and the remedy.
fn check_room(store: &Path, bytes: u64) -> anyhow::Result<()> {
    let free = match free_bytes(store) {
        // Unknown: writing may fail instead.
        None => return Ok(()),
        Some(free) => free,
    };
    if bytes.saturating_add(SPARE) > free {
        let (bytes, free) = (bytes as f64 / 1e9, free as f64 / 1e9);
        bail!(
            "{}: found {free:.1} GB free, expected {bytes:.1} GB and a reserve for dataset.decoded_cache; free some space (`bench store gc`), \
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
    fn too_little_disk_space_is_refused() {
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
