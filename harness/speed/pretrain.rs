//! Masked pretraining steps, and their matrix products alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use rand::Rng;
use tessera_models::cost::{self, Task};
use tessera_models::pretrain::{Mask, PretrainConfig, PretrainData, Shape, pretrain};
use tessera_models::rng::keyed_rng;
use tessera_models::vit::{Preset, VitConfig};
use tessera_models::{Compute, Precision, RunContext, TargetSpec, Targets};

use super::case::{REPEATS, Request, median, median_seconds, unknown_preset};

/// Names of the models, the same as in the scripts of the compared libraries.
pub const PRESETS: &[&str] = &["vit-ti-32", "vit-ti-64", "vit-s-224", "vit-b-224"];

/// Number of codes to predict.
pub(super) const CODES: usize = 50;
const MASK_RATIO: f64 = 0.75;
/// Number of warm-up steps.
pub(super) const WARM_UP: usize = 2;

static TI_32: Preset = Preset {
    name: "Ti-6",
    width: 192,
    depth: 6,
    heads: 3,
    decoder_width: 128,
    decoder_depth: 2,
    decoder_heads: 4,
};

pub(super) fn model(preset: &str) -> anyhow::Result<VitConfig> {
    let named = |name: &str| tessera_models::vit::preset(name);
    let (preset, image_size, patch_size) = match preset {
        "vit-ti-32" => (Some(&TI_32), 32, 4),
        "vit-ti-64" => (named("Ti"), 64, 8),
        "vit-s-224" => (named("S"), 224, 16),
        "vit-b-224" => (named("B"), 224, 16),
        other => return Err(unknown_preset(other, PRESETS)),
    };
    let preset =
        preset.ok_or_else(|| anyhow::anyhow!("the table of backbones lacks the preset"))?;
    Ok(VitConfig {
        preset,
        image_size,
        patch_size,
    })
}

/// Returns the shape of a step with this type of the residual stream.
pub fn shape(residual_stream: Precision) -> Shape {
    Shape {
        mask_ratio: MASK_RATIO,
        residual_stream,
    }
}

fn batch(request: &Request<'_>, vit: &VitConfig) -> usize {
    let usual = if vit.image_size > 64 { 16 } else { 128 };
    request.options.batch.unwrap_or(usual).max(1)
}

/// Measures full steps of [`pretrain`] in images per second.
pub(super) fn steps(request: &Request<'_>) -> anyhow::Result<f64> {
    let vit = model(request.preset)?;
    let batch = batch(request, &vit);
    let target = TargetSpec::Ids {
        codebook_size: CODES,
    };
    let (compute, shape) = (
        &request.options.compute,
        shape(request.options.residual_stream),
    );
    let seconds = step_seconds(&vit, target, shape, (batch, REPEATS), compute, &|| false)?;
    Ok(batch as f64 / seconds)
}

/// Returns the median seconds of `repeats` steps of masked pretraining after two warm-up steps, with `batch` synthetic images on the
/// model's device.
///
/// # Errors
/// Those of [`pretrain`].
pub fn step_seconds(
    vit: &VitConfig,
    target: TargetSpec,
    shape: Shape,
    (batch, repeats): (usize, usize),
    compute: &Compute,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<f64> {
    let steps = WARM_UP + repeats;
    let ends = Mutex::new(Vec::with_capacity(steps));
    let ended = || {
        if let Ok(mut ends) = ends.lock() {
            ends.push(Instant::now());
        }
    };
    run_steps(
        (vit, target, shape),
        (batch, steps),
        compute,
        (&ended, interrupted),
    )?;
    let ends = ends.into_inner().unwrap_or_default();
    let seconds = ends.windows(2).map(|w| (w[1] - w[0]).as_secs_f64());
    Ok(median(seconds.skip(WARM_UP - 1).collect()))
}

/// Runs `steps` steps of masked pretraining with `batch` synthetic images on the model's device, and calls `ended` after each.
///
/// # Errors
/// Those of [`pretrain`].
pub(super) fn run_steps(
    (vit, target, shape): (&VitConfig, TargetSpec, Shape),
    (batch, steps): (usize, usize),
    compute: &Compute,
    (ended, interrupted): (&(dyn Fn() + Sync), &(dyn Fn() -> bool + Sync)),
) -> anyhow::Result<()> {
    let data = Random::new(vit, target, batch, compute)?;
    let config = PretrainConfig {
        epochs: steps,
        batch,
        lr: 1e-4,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio: shape.mask_ratio,
        label_smoothing: 0.0,
        gradient_checkpointing: false,
        residual_stream: shape.residual_stream,
        seed: 0,
    };
    let cx = RunContext {
        progress: &|_| ended(),
        interrupted,
        compute: compute.clone(),
        ..RunContext::default()
    };
    pretrain(vit, target, &config, &data, &cx)?;
    Ok(())
}

/// Measures the steps' matrix products alone in images per second, with one shard per thread at a time.
pub(super) fn products(request: &Request<'_>) -> anyhow::Result<f64> {
    let vit = model(request.preset)?;
    let batch = batch(request, &vit);
    let task = Task::Pretrain {
        kept: Mask::draw(0, 0, 0, vit.num_patches(), MASK_RATIO).num_kept,
        head: CODES,
    };
    let shard = vit.shard_of(batch).min(batch);
    let products = cost::products(&vit, task, shard);
    let precision = request.options.compute.precision();
    let scratches = rayon::broadcast(|_| Mutex::new(cost::Scratch::new(&products, precision)));
    let shards = batch / shard;
    let seconds = median_seconds(|| {
        let claimed = AtomicUsize::new(0);
        rayon::broadcast(|thread| {
            let Ok(mut scratch) = scratches[thread.index()].lock() else {
                return;
            };
            while claimed.fetch_add(1, Ordering::Relaxed) < shards {
                cost::multiply(&products, &mut scratch);
            }
        });
        Ok(())
    })?;
    Ok((shards * shard) as f64 / seconds)
}

/// Random images on the model's device and targets on the CPU, as from a tokenizer, `[len, ...]`.
struct Random {
    images: Tensor,
    targets: Targets,
    len: usize,
}

impl Random {
    fn new(
        vit: &VitConfig,
        target: TargetSpec,
        len: usize,
        compute: &Compute,
    ) -> anyhow::Result<Self> {
        let mut rng = keyed_rng(0, "speed", 0, 0);
        let (side, patches) = (vit.image_size, vit.num_patches());
        let mut numbers = |count: usize| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-2.0..2.0)).collect()
        };
        let images = numbers(len * 3 * side * side);
        let images = Tensor::from_vec(images, (len, 3, side, side), compute.device())?;
        let targets = match target {
            TargetSpec::Ids { codebook_size } => {
                let codes = codebook_size as u32;
                let ids = (0..len * patches).map(|_| rng.random_range(0..codes));
                let ids = Tensor::from_vec(ids.collect::<Vec<_>>(), (len, patches), &Device::Cpu);
                Targets::Ids(ids?)
            }
            TargetSpec::Codes { groups } => {
                let sizes = (0..len * patches).flat_map(|_| groups.sizes().to_vec());
                let codes: Vec<u32> = sizes.map(|size| rng.random_range(0..size)).collect();
                let shape = (len, patches, groups.count());
                Targets::Codes(Tensor::from_vec(codes, shape, &Device::Cpu)?, groups)
            }
            TargetSpec::Values { dim } => {
                let values = numbers(len * patches * dim);
                let shape = (len, patches, dim);
                Targets::Values(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
        };
        Ok(Self {
            images,
            targets,
            len,
        })
    }
}

impl PretrainData for Random {
    fn len(&self) -> usize {
        self.len
    }

    fn shard(&self, _: usize, indices: &[usize]) -> tessera_models::Result<(Tensor, Targets)> {
        let rows: Vec<u32> = indices.iter().map(|index| *index as u32).collect();
        let pick = |all: &Tensor| {
            let rows = Tensor::from_slice(&rows, rows.len(), all.device())?;
            all.index_select(&rows, 0)
        };
        let targets = match &self.targets {
            Targets::Ids(ids) => Targets::Ids(pick(ids)?),
            Targets::Values(values) => Targets::Values(pick(values)?),
            Targets::Codes(codes, groups) => Targets::Codes(pick(codes)?, *groups),
        };
        Ok((pick(&self.images)?, targets))
    }
}
