//! Counting of codes and classes.

use rand::Rng;
use tessera_models::rng::keyed_rng;

use super::case::{Asked, median_seconds, unknown_preset};
use crate::metrics::Counter;

/// Codes and classes.
pub(super) const PRESETS: &[&str] = &["8192-100"];

/// Pairs that are counted, and those of a call.
const PAIRS: usize = 4_000_000;
const PATCHES: usize = 196;

/// Patches per second of counting.
pub(super) fn count(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let numbers = asked.preset.split('-').map(str::parse);
    let numbers: Vec<usize> = numbers.collect::<Result<_, _>>().unwrap_or_default();
    let &[codes @ 1..=0xFFFF_FFFF, classes @ 1..=0xFFFF_FFFF] = &numbers[..] else {
        return Err(unknown_preset(asked.preset, PRESETS));
    };
    let mut rng = keyed_rng(0, "speed", 0, 0);
    let images = PAIRS / PATCHES;
    let ids: Vec<u32> = (0..images * PATCHES)
        .map(|_| rng.random_range(0..codes as u32))
        .collect();
    let labels: Vec<u32> = (0..images)
        .map(|_| rng.random_range(0..classes as u32))
        .collect();
    let (scratch, device) = (std::env::temp_dir(), asked.launcher()?);
    let seconds = median_seconds(|| {
        let mut counter = match &device {
            Some(device) => Counter::on(device, codes, classes, &scratch)?,
            None => Counter::new(codes, classes, &scratch),
        };
        counter.add(&ids, &labels)?;
        std::hint::black_box(counter.finish()?);
        Ok(())
    })?;
    Ok(ids.len() as f64 / seconds)
}
