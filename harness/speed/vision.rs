//! HOG, K-means, counting and decoding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use rand::Rng;
use rayon::prelude::*;
use tessera_kernels::device::launcher::Device;
use tessera_kernels::ops::kmeans::device::{self as step, Centers};
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::kmeans::{Stepper, products};
use tessera_tokenizers::{
    BuildContext, Config, CropBox, Grid, Image, InputSpec, Registry, Sample, SampleId, Split,
    ViewBuf,
};

use super::{Asked, median_seconds, unknown_preset};
use crate::data::{Dataset, EvalTransform, ViewPlan};
use crate::metrics::Counter;

/// Rows in thousands, numbers per row, centres.
pub(super) const KMEANS: &[&str] = &["100k-768-50", "100k-192-100"];
pub(super) const HOG: &[&str] = &["224"];
/// Codes and classes.
pub(super) const COUNT: &[&str] = &["8192-100"];
pub(super) const DECODE: &[&str] = &["eval-224"];

/// Images of a measurement that makes its own.
const IMAGES: usize = 64;
/// Files that are decoded, as the peers' scripts take.
const FILES: usize = 400;
/// Images per task.
const SHARD: usize = 16;
/// Pairs that are counted, and those of a call.
const PAIRS: usize = 4_000_000;
const PATCHES: usize = 196;

/// Rows, and the first of them as centres.
struct Rows {
    rows: Vec<f32>,
    dim: usize,
    k: usize,
}

fn rows(preset: &str) -> anyhow::Result<Rows> {
    if !KMEANS.contains(&preset) {
        return Err(unknown_preset(preset, KMEANS));
    }
    let numbers = preset.replace('k', "000");
    let numbers: Vec<usize> = numbers.split('-').filter_map(|n| n.parse().ok()).collect();
    let &[n, dim, k] = &numbers[..] else {
        return Err(unknown_preset(preset, KMEANS));
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
pub(super) fn kmeans_products(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let Rows { rows, dim, k } = rows(asked.preset)?;
    let n = rows.len() / dim;
    let device = asked.options.compute.device();
    if !device.is_cpu() {
        return Ok(n as f64 / product_seconds_on(device, rows, dim, k)?);
    }
    let seconds = median_seconds(|| {
        std::hint::black_box(products(&rows, dim, &rows[..k * dim]));
        Ok(())
    })?;
    Ok((rows.len() / dim) as f64 / seconds)
}

/// An image of noise that fills its own box.
fn noise(side: usize, index: usize) -> Sample {
    let mut rng = keyed_rng(0, "speed", 0, index as u64);
    let image = Image {
        width: side,
        height: side,
        rgb: (0..side * side * 3)
            .map(|_| rng.random())
            .collect::<Vec<u8>>()
            .into(),
    };
    Sample {
        image: Arc::new(image),
        finest: None,
        crop: CropBox {
            left: 0.0,
            top: 0.0,
            width: side as f64,
            height: side as f64,
        },
        flip: false,
        is_eval_box: true,
        id: SampleId {
            split: Split::Val,
            index,
        },
    }
}

/// Views of noise, [`SHARD`] images each.
pub(super) fn noises(side: usize) -> Vec<ViewBuf> {
    let shard = |start: usize| {
        let samples = (start..start + SHARD).map(|index| noise(side, index));
        ViewBuf(samples.collect())
    };
    (0..IMAGES).step_by(SHARD).map(shard).collect()
}

/// What a tokenizer is built with where there is no suite.
pub(super) fn with_build<R>(
    registry: &Registry,
    (image_size, grid): (usize, Grid),
    work: impl FnOnce(&BuildContext<'_>) -> R,
) -> R {
    work(&BuildContext {
        device: None,
        threads: rayon::current_num_threads(),
        fetch: true,
        ..BuildContext::alone(registry, image_size, grid)
    })
}

/// Images per second of HOG, rendering included.
pub(super) fn hog(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let Some(side) = asked
        .preset
        .parse::<usize>()
        .ok()
        .filter(|s| s.is_multiple_of(16) && *s > 0)
    else {
        return Err(unknown_preset(asked.preset, HOG));
    };
    let grid = Grid {
        rows: side / 16,
        cols: side / 16,
    };
    let with = Config::from_value(serde_json::json!({"kind": "hog"}));
    let hog = with_build(asked.registry, (side, grid), |build| {
        asked.registry.build_features(&with, build)
    })?;
    let views = noises(side);
    if let (Some(device), Some(hog)) = (asked.launcher()?, hog.on_device()) {
        let all = ViewBuf(views.into_iter().flat_map(|view| view.0).collect());
        let seconds = median_seconds(|| {
            std::hint::black_box(hog.extract(&device, &all.as_view())?);
            Ok(device.wait()?)
        })?;
        return Ok(IMAGES as f64 / seconds);
    }
    let seconds = median_seconds(|| {
        let all = views
            .par_iter()
            .map(|view| hog.extract(&view.as_view()).map(drop));
        Ok(all.collect::<Result<(), _>>()?)
    })?;
    Ok(IMAGES as f64 / seconds)
}

/// Patches per second of counting.
pub(super) fn count(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let numbers = asked.preset.split('-').map(str::parse);
    let numbers: Vec<usize> = numbers.collect::<Result<_, _>>().unwrap_or_default();
    let &[codes @ 1..=0xFFFF_FFFF, classes @ 1..=0xFFFF_FFFF] = &numbers[..] else {
        return Err(unknown_preset(asked.preset, COUNT));
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

/// Images per second from files to tensors under the evaluation transform.
pub(super) fn decode(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let Some(side) = asked
        .preset
        .strip_prefix("eval-")
        .and_then(|s| s.parse().ok())
        .filter(|side| (1..=1 << 14).contains(side))
    else {
        return Err(unknown_preset(asked.preset, DECODE));
    };
    let Some(folder) = &asked.options.data else {
        anyhow::bail!("expected --data DIR, a folder of class folders of images");
    };
    let eval = EvalTransform {
        resize_shorter: side * 8 / 7,
        crop: side,
    };
    let dataset = Dataset::of_files(&files(folder)?)?;
    let all: Vec<usize> = (0..dataset.len(Split::Val)).collect();
    let input = InputSpec::imagenet(side);
    let one = |shard: &[usize]| -> anyhow::Result<()> {
        let view = dataset.view(Split::Val, shard, ViewPlan::Eval, eval)?;
        std::hint::black_box(view.as_view().render(&input)?);
        Ok(())
    };
    let seconds = median_seconds(|| all.par_chunks(SHARD).map(one).collect())?;
    Ok(all.len() as f64 / seconds)
}

/// The first images of a folder of class folders.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    use anyhow::Context as _;
    let list = |folder: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let paths = entries.map(|entry| Ok(entry?.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>()?;
        paths.sort_unstable();
        Ok(paths)
    };
    let mut files = Vec::new();
    for class in list(folder)?.into_iter().filter(|path| path.is_dir()) {
        files.extend(list(&class)?);
    }
    files.truncate(FILES);
    anyhow::ensure!(
        !files.is_empty(),
        "{}: found no images, expected class folders with images in them",
        folder.display()
    );
    Ok(files)
}
