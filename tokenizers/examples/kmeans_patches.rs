//! Fits `kind: kmeans` to given patches, to compare it with another implementation on the same data.
//! `tests/fixtures/kmeans/imagenette.py` calls it.
//!
//!     kmeans_patches PATCHES SIDE DIM WITH SEED OUT
//!
//! PATCHES: f32, little-endian, `[images, SIDE * SIDE, DIM]`. WITH: the fields of `with:` as JSON, without `features`.
//! OUT: a folder for `codebook.safetensors`.

#![allow(clippy::unwrap_used, reason = "a program for developers may panic")]

use std::sync::Arc;

use candle_core::{Device, Tensor};
use tessera_tokenizers::{
    BuildContext, Config, CropBox, Features, FeaturesFactory, Fingerprint, Grid, Image,
    ImageStream, Registry, Result, Sample, SampleId, Split, View, ViewBuf, schemars,
};

#[derive(Clone)]
struct Patches {
    values: Arc<Vec<f32>>,
    side: usize,
    dim: usize,
}

impl Patches {
    fn per_image(&self) -> usize {
        self.side * self.side * self.dim
    }
}

impl FeaturesFactory for Patches {
    fn kind(&self) -> &'static str {
        "given"
    }

    fn summary(&self) -> &'static str {
        "patches from a file"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::json_schema!(true)
    }

    fn build(&self, _: &Config, _: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        Ok(Box::new(self.clone()))
    }
}

impl Features for Patches {
    fn grid(&self) -> Grid {
        Grid {
            rows: self.side,
            cols: self.side,
        }
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[])
    }

    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let samples = view.samples().iter();
        let values =
            samples.flat_map(|s| self.values.chunks_exact(self.per_image()).nth(s.id.index));
        let shape = (view.batch(), self.side * self.side, self.dim);
        let values: Vec<f32> = values.flatten().copied().collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// Images of one black pixel; only their index matters.
struct Indices(usize);

impl ImageStream for Indices {
    fn len(&self) -> usize {
        self.0
    }

    fn view(&self, indices: &[usize]) -> Result<ViewBuf> {
        let image = Arc::new(Image {
            width: 1,
            height: 1,
            rgb: vec![0; 3].into(),
        });
        let sample = |&index| Sample {
            image: Arc::clone(&image),
            crop: CropBox {
                left: 0.0,
                top: 0.0,
                width: 1.0,
                height: 1.0,
            },
            flip: false,
            is_eval_box: true,
            finest: None,
            id: SampleId {
                split: Split::Train,
                index,
            },
        };
        Ok(ViewBuf(indices.iter().map(sample).collect()))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [patches, side, dim, with, seed, out] = arguments.as_slice() else {
        panic!("expected PATCHES SIDE DIM WITH SEED OUT");
    };
    let bytes = std::fs::read(patches).unwrap();
    let values = bytes.as_chunks::<4>().0.iter();
    let patches = Patches {
        values: Arc::new(values.map(|b| f32::from_le_bytes(*b)).collect()),
        side: side.parse().unwrap(),
        dim: dim.parse().unwrap(),
    };
    let images = Indices(patches.values.len() / patches.per_image());
    let grid = Features::grid(&patches);
    let registry = Registry::builtin().with_features(patches);
    let mut with: serde_json::Value = serde_json::from_str(with).unwrap();
    with["features"] = serde_json::json!({"kind": "given"});
    let with = Config::from_value(with);
    let cx = BuildContext {
        threads: rayon::current_num_threads(),
        progress: &|done, total, note| eprintln!("{done}/{total} {note}"),
        ..BuildContext::alone(&registry, grid.rows, grid)
    };
    let factory = registry.tokenizer("kmeans", &with).unwrap();
    let fitted = factory
        .fit(&with, &images, seed.parse().unwrap(), &cx)
        .unwrap();
    std::fs::create_dir_all(out).unwrap();
    fitted.save(out.as_ref()).unwrap();
}
