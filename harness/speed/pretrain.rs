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
pub fn steps(asked: &Asked<'_>) -> anyhow::Result<f64> {
    let vit = model(asked.preset)?;
    let batch = batch(asked, &vit);
    let data = Random::new(&vit, batch)?;
    let steps = WARM_UP + REPEATS;
    let config = PretrainConfig {
        epochs: steps,
        batch,
        lr: 1e-4,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio: MASK_RATIO,
        label_smoothing: 0.0,
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
        interrupted: &|| false,
    };
    let target = TargetSpec::Ids {
        codebook_size: CODES,
    };
    pretrain(&vit, target, &config, &data, &cx)?;
    let ends = ends.into_inner().unwrap_or_default();
    let seconds = ends.windows(2).map(|w| (w[1] - w[0]).as_secs_f64());
    Ok(batch as f64 / median(seconds.skip(WARM_UP - 1).collect()))
}

/// Images per second of the steps' matrix products alone, shard by shard on as many threads.
pub fn products(asked: &Asked<'_>) -> anyhow::Result<f64> {
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

/// Images and ids made once.
struct Random {
    images: Vec<f32>,
    ids: Vec<u32>,
    side: usize,
    patches: usize,
}

impl Random {
    fn new(vit: &VitConfig, len: usize) -> anyhow::Result<Self> {
        let mut rng = keyed_rng(0, "speed", 0, 0);
        let side = vit.image_size;
        let images = (0..len * 3 * side * side).map(|_| rng.random_range(-2.0..2.0));
        let images = images.collect();
        let ids = (0..len * vit.num_patches()).map(|_| rng.random_range(0..CODES as u32));
        Ok(Self {
            images,
            ids: ids.collect(),
            side,
            patches: vit.num_patches(),
        })
    }
}

impl PretrainData for Random {
    fn len(&self) -> usize {
        self.ids.len() / self.patches
    }

    fn shard(&self, _: usize, indices: &[usize]) -> tessera_models::Result<(Tensor, Targets)> {
        let size = 3 * self.side * self.side;
        let images = indices
            .iter()
            .flat_map(|i| &self.images[i * size..(i + 1) * size]);
        let images: Vec<f32> = images.copied().collect();
        let shape = (indices.len(), 3, self.side, self.side);
        let ids = indices
            .iter()
            .flat_map(|i| &self.ids[i * self.patches..][..self.patches]);
        let ids: Vec<u32> = ids.copied().collect();
        let ids = Tensor::from_vec(ids, (indices.len(), self.patches), &Device::Cpu)?;
        Ok((
            Tensor::from_vec(images, shape, &Device::Cpu)?,
            Targets::Ids(ids),
        ))
    }
}
