//! Measures a step of pretraining for the rates of `--dry-run`.

use std::sync::atomic::Ordering;

use tessera_models::TargetSpec;
use tessera_models::cost::{self, Task};
use tessera_models::pretrain::Mask;
use tessera_models::vit::VitConfig;

use super::context::Context;
use crate::speed;
use crate::suite::ResidualStream;

/// Images of a timed step on a device: enough to fill it.
const DEVICE_BATCH: usize = 256;
/// Operations of a timed step per thread: seconds. A larger model of more than [`GRID`] x [`GRID`] patches is measured with fewer.
const STEP: f64 = 2e11;
/// Patches on a side above those of usual models: 512 pixels in patches of 16.
const GRID: usize = 32;

/// Measures the floating-point operations per second of a pretraining step.
pub fn flops(cx: &Context<'_>, vit: &VitConfig) -> anyhow::Result<f64> {
    let whole = cx.suite.file.pretrain.as_ref();
    let stream = whole.map_or_else(ResidualStream::default, |recipe| recipe.residual_stream);
    let shape = speed::pretrain::shape(stream.precision());
    let whole = whole.map_or(usize::MAX, |recipe| recipe.batch);
    let batch_of = |vit: &VitConfig| match cx.compute.images_at_once(vit, task(vit)) {
        Some(most) => most.min(DEVICE_BATCH),
        // A batch with fewer shards than threads leaves threads idle.
        None => whole.min(vit.shard_of(whole) * cx.threads.max(1)),
    };
    let threads = cx.threads.max(1) as f64;
    let vit = &smaller(*vit, |vit| batch_of(vit) as f64 * flops_of(vit) / threads);
    let batch = batch_of(vit);
    let target = TargetSpec::Ids { codebook_size: 50 };
    let compute = cx.compute.clone().divided_as(whole);
    let stop = || cx.stop.load(Ordering::Relaxed);
    let timed = speed::pretrain::step_seconds(vit, target, shape, (batch, 3), &compute, &stop);
    Ok(flops_of(vit) * batch as f64 / timed?)
}

/// The measured step: pretraining with a mask ratio of 0.75 and 50 codes.
fn task(vit: &VitConfig) -> Task {
    Task::Pretrain {
        kept: visible_patches(vit, 0.75),
        head: 50,
    }
}

/// Returns the operations of a step per image.
fn flops_of(vit: &VitConfig) -> f64 {
    cost::flops(&cost::products(vit, task(vit), 1))
}

/// Returns `vit` with fewer patches if it has many and a step of it more than [`STEP`] operations per thread, which `of` returns.
fn smaller(mut vit: VitConfig, of: impl Fn(&VitConfig) -> f64) -> VitConfig {
    while of(&vit) > STEP && vit.grid() > GRID {
        vit.image_size = vit.grid() / 2 * vit.patch_size;
    }
    vit
}

/// Returns the number of visible patches at a mask ratio.
pub fn visible_patches(vit: &VitConfig, mask_ratio: f64) -> usize {
    Mask::draw(0, 0, 0, vit.num_patches(), mask_ratio).num_kept
}

#[cfg(test)]
mod tests {
    use tessera_models::vit::preset;

    use super::*;

    #[test]
    fn the_measured_step_of_many_patches_has_a_limit() {
        let of = |name: &str, image_size: usize, patch_size: usize| VitConfig {
            preset: preset(name).unwrap(),
            image_size,
            patch_size,
        };
        let step = |vit: &VitConfig| 8.0 * flops_of(vit);
        for usual in [of("B", 224, 16), of("L", 512, 16), of("S", 448, 14)] {
            assert_eq!(smaller(usual, step), usual);
        }
        let found = smaller(of("nano", 4096, 16), step);
        assert!(step(&found) <= STEP, "{found:?}");
        assert!((GRID..256).contains(&found.grid()), "{found:?}");
        assert_eq!(smaller(of("L", 8192, 32), step).grid(), GRID);
    }
}
