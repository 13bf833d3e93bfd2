//! Steps of masked pretraining, and their matrix products alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use rand::Rng;
use tessera_models::cost::{self, Task};
use tessera_models::pretrain::{Mask, PretrainConfig, PretrainData, pretrain};
use tessera_models::rng::keyed_rng;
use tessera_models::vit::{Preset, VitConfig};
use tessera_models::{RunContext, TargetSpec, Targets};

use super::{Asked, REPEATS, median, median_seconds, unknown_preset};

/// Names of the models, as the peers' scripts have them.
pub const PRESETS: &[&str] = &["vit-ti-32", "vit-ti-64", "vit-s-224", "vit-b-224"];

/// Codes that are predicted.
const CODES: usize = 50;
const MASK_RATIO: f64 = 0.75;
/// Steps before the first that counts.
const WARM_UP: usize = 2;

static TI_32: Preset = Preset {
    name: "Ti-6",
    width: 192,
    depth: 6,
    heads: 3,
    decoder_width: 128,
    decoder_depth: 2,
    decoder_heads: 4,
};

fn model(preset: &str) -> anyhow::Result<VitConfig> {
    let named = |name: &str| tessera_models::vit::preset(name);
    let (preset, image_size, patch_size) = match preset {
        "vit-ti-32" => (Some(&TI_32), 32, 4),
        "vit-ti-64" => (named("Ti"), 64, 8),
        "vit-s-224" => (named("S"), 224, 16),
        "vit-b-224" => (named("B"), 224, 16),
        other => return Err(unknown_preset(other, PRESETS)),
    };
    let preset = preset.ok_or_else(|| anyhow::anyhow!("the table of backbones lacks a preset"))?;
    Ok(VitConfig {
        preset,
        image_size,
        patch_size,
    })
}

fn batch(asked: &Asked<'_>, vit: &VitConfig) -> usize {
    let usual = if vit.image_size > 64 { 16 } else { 128 };
    asked.options.batch.unwrap_or(usual).max(1)
}

/// Images per second over whole steps of [`pretrain`].
pub(super) fn steps(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let vit = model(asked.preset)?;
    let batch = batch(asked, &vit);
    let target = TargetSpec::Ids {
        codebook_size: CODES,
    };
    let seconds = step_seconds(&vit, target, MASK_RATIO, (batch, REPEATS), &|| false)?;
    Ok(batch as f64 / seconds)
}

/// Median seconds of `repeats` steps of masked pretraining on made images, `batch` of them, after two to warm up.
///
/// # Errors
/// As [`pretrain`].
pub fn step_seconds(
    vit: &VitConfig,
    target: TargetSpec,
    mask_ratio: f64,
    (batch, repeats): (usize, usize),
    interrupted: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<f64> {
    let data = Random::new(vit, target, batch)?;
    let steps = WARM_UP + repeats;
    let config = PretrainConfig {
        epochs: steps,
        batch,
        lr: 1e-4,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio,
        label_smoothing: 0.0,
        gradient_checkpointing: false,
        seed: 0,
    };
    let ends = Mutex::new(Vec::with_capacity(steps));
    let progress = |_: &tessera_models::Progress| {
        if let Ok(mut ends) = ends.lock() {
            ends.push(Instant::now());
        }
    };
    let cx = RunContext {
        state: None,
        checkpoint_every: Duration::MAX,
        progress: &progress,
        interrupted,
        workers: 0,
    };
    pretrain(vit, target, &config, &data, &cx)?;
    let ends = ends.into_inner().unwrap_or_default();
    let seconds = ends.windows(2).map(|w| (w[1] - w[0]).as_secs_f64());
    Ok(median(seconds.skip(WARM_UP - 1).collect()))
}

/// Images per second of the steps' matrix products alone, shard by shard on as many threads.
pub(super) fn products(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let vit = model(asked.preset)?;
    let batch = batch(asked, &vit);
    let task = Task::Pretrain {
        kept: Mask::draw(0, 0, 0, vit.num_patches(), MASK_RATIO).num_kept,
        head: CODES,
    };
    let shard = vit.shard().min(batch);
    let products = cost::products(&vit, task, shard);
    let scratches = rayon::broadcast(|_| Mutex::new(cost::Scratch::new(&products)));
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

/// Images and targets made once.
struct Random {
    images: Vec<f32>,
    ids: Vec<u32>,
    values: Vec<f32>,
    target: TargetSpec,
    side: usize,
    patches: usize,
}

impl Random {
    fn new(vit: &VitConfig, target: TargetSpec, len: usize) -> anyhow::Result<Self> {
        let mut rng = keyed_rng(0, "speed", 0, 0);
        let (side, rows) = (vit.image_size, len * vit.num_patches());
        let (codes, dim) = match target {
            TargetSpec::Ids { codebook_size } => (codebook_size as u32, 0),
            TargetSpec::Values { dim } => (1, dim),
        };
        let mut numbers = |count: usize| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-2.0..2.0)).collect()
        };
        let (images, values) = (numbers(len * 3 * side * side), numbers(rows * dim));
        Ok(Self {
            images,
            ids: (0..rows).map(|_| rng.random_range(0..codes)).collect(),
            values,
            target,
            side,
            patches: vit.num_patches(),
        })
    }
}

/// Blocks `indices` of `size` numbers each.
fn pick<T: Copy>(all: &[T], indices: &[usize], size: usize) -> Vec<T> {
    let blocks = indices.iter().flat_map(|i| &all[i * size..(i + 1) * size]);
    blocks.copied().collect()
}

impl PretrainData for Random {
    fn len(&self) -> usize {
        self.ids.len() / self.patches
    }

    fn shard(&self, _: usize, indices: &[usize]) -> tessera_models::Result<(Tensor, Targets)> {
        let (count, patches) = (indices.len(), self.patches);
        let images = pick(&self.images, indices, 3 * self.side * self.side);
        let images = Tensor::from_vec(images, (count, 3, self.side, self.side), &Device::Cpu)?;
        let targets = match self.target {
            TargetSpec::Ids { .. } => {
                let ids = pick(&self.ids, indices, patches);
                Targets::Ids(Tensor::from_vec(ids, (count, patches), &Device::Cpu)?)
            }
            TargetSpec::Values { dim } => {
                let values = pick(&self.values, indices, patches * dim);
                let shape = (count, patches, dim);
                Targets::Values(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
        };
        Ok((images, targets))
    }
}
