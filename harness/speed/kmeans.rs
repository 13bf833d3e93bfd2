//! Steps of K-means, and their matrix products alone.

use candle_core::Tensor;
use rand::Rng;
use tessera_kernels::device::launcher::Device;
use tessera_kernels::ops::kmeans::device::{self as step, Centers};
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::kmeans::{self, Stepper};

use super::case::{Asked, median_seconds, unknown_preset};

/// Rows in thousands, numbers per row, centres.
pub(super) const PRESETS: &[&str] = &["100k-768-50", "100k-192-100"];

/// Rows, and the first of them as centres.
struct Rows {
    rows: Vec<f32>,
    dim: usize,
    k: usize,
}

fn rows(preset: &str) -> anyhow::Result<Rows> {
    if !PRESETS.contains(&preset) {
        return Err(unknown_preset(preset, PRESETS));
    }
    let numbers = preset.replace('k', "000");
    let numbers: Vec<usize> = numbers.split('-').filter_map(|n| n.parse().ok()).collect();
    let &[n, dim, k] = &numbers[..] else {
        return Err(unknown_preset(preset, PRESETS));
    };
    let normal = rand_distr::StandardNormal;
    let mut rng = keyed_rng(0, "speed", 0, 0);
    let rows = (0..n * dim).map(|_| rng.sample(normal)).collect();
    Ok(Rows { rows, dim, k })
}

/// Patches per second of an assignment and update.
pub(super) fn kmeans(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let Rows { rows, dim, k } = rows(asked.preset)?;
    if let Some(device) = asked.launcher()? {
        let seconds = step_seconds_on(&device, &rows, dim, &rows[..k * dim])?;
        return Ok((rows.len() / dim) as f64 / seconds);
    }
    let mut stepper = Stepper::new();
    let seconds = median_seconds(|| {
        std::hint::black_box(stepper.step(&rows, dim, &rows[..k * dim])?);
        Ok(())
    })?;
    Ok((rows.len() / dim) as f64 / seconds)
}

/// Seconds of a step on a device, of rows that are there; centres go there and what is found comes back.
fn step_seconds_on(
    device: &Device,
    rows: &[f32],
    dim: usize,
    centers: &[f32],
) -> anyhow::Result<f64> {
    let rows = device.put(rows)?;
    let largest = step::largest(device, &rows, dim)?;
    median_seconds(|| {
        let centers = Centers::euclidean(device, centers, dim)?;
        std::hint::black_box(step::step(device, &rows, &centers, largest)?);
        Ok(())
    })
}

/// Seconds of the product of `rows` and `centers` by the device's own library.
fn product_seconds_on(
    device: &candle_core::Device,
    rows: Vec<f32>,
    dim: usize,
    k: usize,
) -> anyhow::Result<f64> {
    let n = rows.len() / dim;
    let rows = Tensor::from_vec(rows, (n, dim), device)?;
    let centers = rows.narrow(0, 0, k)?.t()?.contiguous()?;
    median_seconds(|| {
        std::hint::black_box(rows.matmul(&centers)?);
        Ok(device.synchronize()?)
    })
}

/// Patches per second of its matrix products alone.
pub(super) fn products(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let Rows { rows, dim, k } = rows(asked.preset)?;
    let n = rows.len() / dim;
    let device = asked.options.compute.device();
    if !device.is_cpu() {
        return Ok(n as f64 / product_seconds_on(device, rows, dim, k)?);
    }
    let seconds = median_seconds(|| {
        std::hint::black_box(kmeans::products(&rows, dim, &rows[..k * dim]));
        Ok(())
    })?;
    Ok((rows.len() / dim) as f64 / seconds)
}
