//! Counting and metrics of 2^18 codes and 1000 classes stay below 1 GB; a dense `R` alone would take 2.1 GB.
//!
//! The test is alone in its process, because it measures the peak of the process.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use rand::Rng;
use tessera::metrics::{Counter, Counts, CountsWriter, estimate};
use tessera::models::rng::keyed_rng;

const CODES: usize = 1 << 18;
const CLASSES: usize = 1000;
const PATCHES: usize = 196;

/// Returns the peak resident memory of the process in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Iterates over batches of up to 64 images: random ids and labels.
fn batches(images: usize) -> impl Iterator<Item = (Vec<u32>, Vec<u32>)> {
    (0..images).step_by(64).map(move |first| {
        let mut rng = keyed_rng(0, "memory test", first as u64, 0);
        let labels: Vec<u32> = (first..images.min(first + 64))
            .map(|i| (i % CLASSES) as u32)
            .collect();
        let ids = (0..labels.len() * PATCHES).map(|_| rng.random_range(0..CODES as u32));
        (ids.collect(), labels)
    })
}

#[test]
fn a_codebook_of_a_quarter_million_stays_below_one_gigabyte() {
    if peak().is_none() {
        return common::skipped("this system does not report the peak memory");
    }
    // Ten million patches: only R and its metrics.
    let dir = tempfile::tempdir().unwrap();
    let mut counter = Counter::new(CODES, CLASSES, dir.path());
    let images = 10_000_000 / PATCHES;
    for (ids, labels) in batches(images) {
        counter.add(&ids, &labels).unwrap();
    }
    let mut table = counter.finish().unwrap();
    assert_eq!(table.total().unwrap(), (images * PATCHES) as u64);
    assert_eq!(table.values(0.002).unwrap().codebook_used, CODES as f64);
    drop(table);
    // Fewer images, written to files, with all bootstrap draws.
    let mut writer = CountsWriter::create(dir.path(), dir.path(), (CODES, CLASSES), None).unwrap();
    for (ids, labels) in batches(CLASSES) {
        writer.add(&ids, &labels).unwrap();
    }
    writer.finish().unwrap();
    let counts = Counts::open(dir.path()).unwrap();
    assert!(counts.table().unwrap().as_dense().is_none());
    let estimates = estimate(&counts, 0.002, 0, dir.path(), &|| false).unwrap();
    assert!(estimates.iter().all(|e| e.se.is_some_and(f64::is_finite)));
    let peak = peak().unwrap();
    assert!(peak < 1_000_000_000, "{peak} bytes");
}
