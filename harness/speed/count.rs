//! Counts of codes and classes.

use rand::Rng;
use tessera_models::rng::keyed_rng;

use super::case::{Request, median_seconds, unknown_preset};
use crate::metrics::Counter;

/// Numbers of codes and classes.
pub(super) const PRESETS: &[&str] = &["8192-100"];

/// Total number of patches, rounded down to whole images, and patches per image.
const PAIRS: usize = 4_000_000;
const PATCHES: usize = 196;

/// Measures counting in patches per second.
pub(super) fn count(request: &Request<'_>) -> anyhow::Result<f64> {
    let numbers = request.preset.split('-').map(str::parse);
    let numbers: Vec<usize> = numbers.collect::<Result<_, _>>().unwrap_or_default();
    let &[codes @ 1..=0xFFFF_FFFF, classes @ 1..=0xFFFF_FFFF] = &numbers[..] else {
        return Err(unknown_preset(request.preset, PRESETS));
    };
    let mut rng = keyed_rng(0, "speed", 0, 0);
    let images = PAIRS / PATCHES;
    let ids: Vec<u32> = (0..images * PATCHES)
        .map(|_| rng.random_range(0..codes as u32))
        .collect();
    let labels: Vec<u32> = (0..images)
        .map(|_| rng.random_range(0..classes as u32))
        .collect();
    let (scratch, device) = (std::env::temp_dir(), request.launcher()?);
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
