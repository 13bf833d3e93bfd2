//! Synthetic images for measurements.

use std::sync::Arc;

use rand::Rng;
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::{
    BuildContext, CropBox, Grid, Image, Registry, Sample, SampleId, Split, ViewBuf,
};

/// Number of images.
pub(super) const IMAGES: usize = 64;
/// Images per task.
pub(super) const SHARD: usize = 16;

/// Creates an image of noise whose crop is the whole image.
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

/// Creates views of noise with [`SHARD`] images each.
pub(super) fn noises(side: usize) -> Vec<ViewBuf> {
    let shard = |start: usize| {
        let samples = (start..start + SHARD).map(|index| noise(side, index));
        ViewBuf(samples.collect())
    };
    (0..IMAGES).step_by(SHARD).map(shard).collect()
}

/// Calls `work` with a context for building a tokenizer without a suite.
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
