//! K-means steps, and their matrix products alone.

use candle_core::Tensor;
use rand::Rng;
use tessera_kernels::device::launcher::Device;
use tessera_kernels::ops::kmeans::device::{self as step, Centers};
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::kmeans::{self, Stepper};

use super::case::{Request, median_seconds, unknown_preset};

/// Rows in thousands, dimension, number of centres.
pub(super) const PRESETS: &[&str] = &["100k-768-50", "100k-192-100"];

/// Random rows; the first `k` serve as centres.
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

/// Measures an assignment and update in patches per second.
pub(super) fn kmeans(request: &Request<'_>) -> anyhow::Result<f64> {
    let Rows { rows, dim, k } = rows(request.preset)?;
    if let Some(device) = request.launcher()? {
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

/// Returns the seconds of a step on a device. Rows stay on the device; the time includes the transfer of centres and results.
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

/// Returns the seconds of the product of rows and centres with the device's library.
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

/// Measures the step's matrix products alone in patches per second.
pub(super) fn products(request: &Request<'_>) -> anyhow::Result<f64> {
    anyhow::ensure!(
        request.options.batch.is_none(),
        "found --batch with preset `{}` of case `gemm`, which does not read it; leave it out",
        request.preset
    );
    let Rows { rows, dim, k } = rows(request.preset)?;
    let n = rows.len() / dim;
    let device = request.options.compute.device();
    if !device.is_cpu() {
        return Ok(n as f64 / product_seconds_on(device, rows, dim, k)?);
    }
    let seconds = median_seconds(|| {
        std::hint::black_box(kmeans::products(&rows, dim, &rows[..k * dim]));
        Ok(())
    })?;
    Ok((rows.len() / dim) as f64 / seconds)
}
