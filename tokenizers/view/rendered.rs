//! Cache of a view's renderings, shared by consumers.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use tessera_kernels::device::launcher::Memory;

use super::sample::InputSpec;
use crate::Result;

/// Renderings of one view, each computed once: tensors by size and scaling, and bytes on a device by size.
#[derive(Default)]
pub struct Rendered {
    tensors: Cache<InputSpec, Tensor>,
    on_device: Cache<usize, Memory>,
}

type Cache<K, V> = Mutex<Vec<(K, V)>>;

impl Rendered {
    /// Returns the rendering at a size and scaling; calls `make` the first time.
    pub(super) fn tensor(
        &self,
        input: &InputSpec,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        once(&self.tensors, *input, make)
    }

    /// Returns the bytes at a size on the program's device; calls `make` the first time.
    pub(super) fn on_device(
        &self,
        side: usize,
        make: impl FnOnce() -> Result<Memory>,
    ) -> Result<Memory> {
        once(&self.on_device, side, make)
    }
}

fn once<K: PartialEq, V: Clone>(
    cache: &Cache<K, V>,
    key: K,
    make: impl FnOnce() -> Result<V>,
) -> Result<V> {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, value)) = cache.iter().find(|(known, _)| *known == key) {
        return Ok(value.clone());
    }
    let value = make()?;
    cache.push((key, value.clone()));
    Ok(value)
}

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rendered")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Image, Sample, SampleId, Split, View, render};
    use super::*;
    use crate::{BuildContext, Config, CropBox, Grid, Registry};

    fn sample() -> Sample {
        let bytes: Vec<u8> = (0..3 * 12 * 12).map(|at| (at * 37 % 251) as u8).collect();
        Sample {
            image: std::sync::Arc::new(Image {
                width: 12,
                height: 12,
                rgb: bytes.into(),
            }),
            crop: CropBox {
                left: 1.0,
                top: 2.0,
                width: 9.5,
                height: 9.5,
            },
            finest: None,
            flip: true,
            is_eval_box: false,
            id: SampleId {
                split: Split::Train,
                index: 0,
            },
        }
    }

    #[test]
    fn consumers_of_the_same_pixels_render_once() {
        let registry = Registry::builtin();
        let cx = BuildContext::alone(&registry, 8, Grid { rows: 4, cols: 4 });
        let features = Config::from_value(json!({"kind": "pixels"}));
        let features = registry.build_features(&features, &cx).unwrap();
        let samples = [sample()];
        let alone = View::new(&samples);
        let numbers = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let input = InputSpec::imagenet(8);
        let count = |view: &View<'_>| {
            let before = render::count();
            let model = numbers(view.render(&input).unwrap());
            let values = numbers(features.extract(view).unwrap());
            (render::count() - before, model, values)
        };
        let rendered = Rendered::default();
        let (twice, model, values) = count(&alone);
        let shared = alone.sharing(&rendered);
        assert_eq!((twice, count(&shared)), (2, (1, model, values)));
        // Another size or scaling needs another rendering.
        let before = render::count();
        for input in [
            InputSpec::imagenet(9),
            InputSpec {
                std: [1.0; 3],
                ..input
            },
        ] {
            let expected = numbers(alone.render(&input).unwrap());
            assert_eq!(numbers(shared.render(&input).unwrap()), expected);
        }
        assert_eq!(render::count() - before, 4);
    }
}
