//! `decoded`: the pixels of all images in the store, for suites that say `decoded_cache: u8`.
//!
//! No stage names it in its key: it changes no pixel.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::bail;
use serde_json::json;
use tessera_tokenizers::Split;

use crate::run::context::{Context, Images, Mode};
use crate::run::environment::free_bytes;
use crate::store::Provenance;

const VERSION: u32 = 1;
const FILE: &str = "pixels.u8";
/// Bytes of disk that stay free beside the pixels, for results.
const SPARE: u64 = 256 << 20;

/// The stage's name.
pub const STAGE: &str = "decoded";

/// Bytes of the decoded images of a suite that wants them in the store.
pub fn wanted(cx: &Context<'_>, images: &Images) -> Option<u64> {
    let cached = cx.suite.dataset.decoding().cached;
    images.dataset.decoded_bytes().filter(|_| cached)
}

/// Whether the store has them.
pub fn is_stored(cx: &Context<'_>, images: &Images) -> bool {
    matches!(cx.store.lookup(&provenance(images)), Ok(Some(_)))
}

fn provenance(images: &Images) -> Provenance {
    let count = images.dataset.len(Split::Train) + images.dataset.len(Split::Val);
    Provenance {
        stage: STAGE,
        label: format!("{}, {count} images", images.scan.name),
        inputs: json!({"version": VERSION, "images": images.scan.fingerprint}),
    }
}

/// Has `images` taken from the store where the suite says `decoded_cache`, decoding them into it first where they are missing.
///
/// # Errors
/// When the disk has no room, an image no longer decodes, or the user asks to stop.
pub fn attach(cx: &Context<'_>, images: &Images) -> anyhow::Result<()> {
    let Some(bytes) = wanted(cx, images) else {
        return Ok(());
    };
    cx.plan([STAGE]);
    let stored = || {
        let entry = cx.stage(Mode::Compute, &provenance(images), |work| {
            check_room(cx.store.root(), bytes)?;
            let (reporter, stop) = (cx.reporter, cx.stop);
            let progress = |done: usize, total: usize, note: &str| {
                reporter.progress(done, total, note);
            };
            let stop = || stop.load(Ordering::Relaxed);
            (images.dataset).write_decoded(&work.out.join(FILE), &progress, &stop)?;
            Ok(json!({"bytes": bytes}))
        })?;
        Ok(entry.map(|entry| entry.file(FILE)).transpose()?)
    };
    match (cx.again(stored)?, &cx.launcher) {
        (None, _) => Ok(()),
        (Some(path), Some(device)) if pins(cx, bytes) => {
            Ok(images.dataset.use_decoded_on(&path, device)?)
        }
        (Some(path), _) => Ok(images.dataset.use_decoded(&path)?),
    }
}

/// Whether so many bytes of pixels are held in memory that a device reads by itself: where there is a device, and they leave the
/// greater part of the free memory to others.
pub fn pins(cx: &Context<'_>, bytes: u64) -> bool {
    cx.launcher.is_some() && available_memory().is_some_and(|free| bytes <= free / PINNED_SHARE)
}

/// Part of the free memory that pinned pixels may take: one over this.
const PINNED_SHARE: u64 = 2;

/// Bytes of memory that the system can give without swapping; `None` where it does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Refuses what the disk has no room for, before any of it is written.
///
/// # Errors
/// How much there is, how much is needed, and what to do.
pub fn check_room(store: &Path, bytes: u64) -> anyhow::Result<()> {
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
