//! Images that a measurement makes for itself.

use std::sync::Arc;

use rand::Rng;
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::{
    BuildContext, CropBox, Grid, Image, Registry, Sample, SampleId, Split, ViewBuf,
};

/// How many.
pub(super) const IMAGES: usize = 64;
/// Images per task.
pub(super) const SHARD: usize = 16;

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
