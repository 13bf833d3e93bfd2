mod device;
mod fits;
mod grouped;

use super::*;
use crate::registry::Registry;
use crate::view::{CropBox, Image, Sample, SampleId, Split, ViewBuf};
use candle_core::{Device, Tensor};
use serde_json::json;
use std::sync::Arc;

/// 4x4 images of 2x2 patches with one of four colours, slightly changed by the index.
struct Colors(usize);

impl ImageStream for Colors {
    fn len(&self) -> usize {
        self.0
    }

    fn view(&self, indices: &[usize]) -> Result<ViewBuf> {
        let samples = indices.iter().map(|&index| {
            let rgb = (0..16).flat_map(|at: usize| {
                let patch = at / 8 * 2 + at % 4 / 2;
                let base = [[250, 10, 10], [10, 250, 10], [10, 10, 250], [200, 200, 200]]
                    [(patch + index) % 4];
                base.map(|v: u8| v.saturating_sub((index % 5) as u8))
            });
            let image = Image {
                width: 4,
                height: 4,
                rgb: rgb.collect::<Vec<u8>>().into(),
            };
            Sample {
                image: Arc::new(image),
                crop: CropBox {
                    left: 0.0,
                    top: 0.0,
                    width: 4.0,
                    height: 4.0,
                },
                finest: None,
                flip: false,
                is_eval_box: true,
                id: SampleId {
                    split: Split::Train,
                    index,
                },
            }
        });
        Ok(ViewBuf(samples.collect()))
    }
}

/// Given rows as features of images with one patch.
struct Given {
    rows: Vec<f32>,
    dim: usize,
}

impl Features for Given {
    fn grid(&self) -> Grid {
        Grid { rows: 1, cols: 1 }
    }
    fn dim(&self) -> usize {
        self.dim
    }
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[])
    }
    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let samples = view.samples().iter();
        let rows = samples.flat_map(|s| &self.rows[s.id.index * self.dim..][..self.dim]);
        let shape = (view.batch(), 1, self.dim);
        Ok(Tensor::from_vec(
            rows.copied().collect(),
            shape,
            &Device::Cpu,
        )?)
    }
}

fn with_cx<R>(registry: &Registry, work: impl FnOnce(&BuildContext<'_>) -> R) -> R {
    work(&BuildContext::alone(registry, 4, Grid { rows: 2, cols: 2 }))
}

fn config(k: usize, more: serde_json::Value) -> Config {
    let mut value = json!({"features": {"kind": "pixels"}, "k": k, "epochs": 3, "batch": 16});
    for (key, v) in more.as_object().unwrap() {
        value[key] = v.clone();
    }
    Config::from_value(value)
}

fn ids(tokenizer: &dyn Tokenizer, images: &Colors, indices: &[usize]) -> Vec<u32> {
    let view = images.view(indices).unwrap();
    let Targets::Ids(ids) = tokenizer.tokenize(&view.as_view()).unwrap() else {
        panic!("not ids")
    };
    ids.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn four_colours_become_four_codes_and_survive_a_save() {
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        let images = Colors(64);
        let fitted = KMeansFactory
            .fit(&config(4, json!({})), &images, 0, cx)
            .unwrap();
        let found = ids(fitted.as_ref(), &images, &[0, 1]);
        let mut distinct = found[..4].to_vec();
        distinct.sort_unstable();
        assert_eq!(distinct, [0, 1, 2, 3]);
        assert_eq!(
            found[4..7],
            found[1..4],
            "image 1 has the colours shifted by one patch"
        );
        let dir = tempfile::tempdir().unwrap();
        fitted.save(dir.path()).unwrap();
        let loaded = KMeansFactory
            .load(&config(4, json!({})), dir.path(), cx)
            .unwrap();
        assert_eq!(loaded.fingerprint(), fitted.fingerprint());
        assert_eq!(
            ids(loaded.as_ref(), &images, &[5, 9]),
            ids(fitted.as_ref(), &images, &[5, 9])
        );
        assert_eq!(loaded.facts().kmeans_epochs, Some(3));
    });
}

#[test]
fn centres_do_not_depend_on_the_number_of_threads() {
    let registry = Registry::builtin();
    let fit = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            with_cx(&registry, |cx| {
                KMeansFactory
                    .fit(&config(7, json!({})), &Colors(90), 1, cx)
                    .unwrap()
                    .fingerprint()
            })
        })
    };
    assert_eq!(fit(1), fit(3));
}

#[test]
fn more_codes_than_patches_and_zeros_are_refused() {
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        let error = KMeansFactory
            .fit(&config(500, json!({})), &Colors(10), 0, cx)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("with.k: found 500, but the train split has only 40 patches"),
            "{error}"
        );
        for (field, value) in [
            ("k", json!({"k": 0})),
            ("epochs", json!({"epochs": 0})),
            ("batch", json!({"batch": 0})),
        ] {
            let error = KMeansFactory
                .validate(&config(2, value), cx)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(&format!("with.{field}: found 0")), "{error}");
        }
    });
}

#[test]
fn identical_rows_and_as_many_codes_as_patches_do_not_fail() {
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        KMeansFactory
            .fit(&config(40, json!({})), &Colors(10), 0, cx)
            .unwrap();
    });
}

#[test]
fn assignment_equals_brute_force() {
    let values: Vec<f32> = (0..300)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 10.0)
        .collect();
    let centers: Vec<f32> = (0..60)
        .map(|i| ((i * 53 % 97) as f32 - 48.0) / 9.0)
        .collect();
    let codebook = Codebook {
        k: 20,
        dim: 3,
        centers: centers.clone(),
        weights: vec![1.0; 20],
        inertia: None,
    };
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let score = |x: &[f32], c: &[f32], matching| match matching {
        Matching::Euclidean => -x.iter().zip(c).map(|(a, b)| (a - b) * (a - b)).sum::<f32>(),
        Matching::InnerProduct => dot(x, c) / norm(x),
        Matching::Cosine => dot(x, c) / norm(x) / norm(c),
    };
    for matching in [
        Matching::Euclidean,
        Matching::InnerProduct,
        Matching::Cosine,
    ] {
        let found = codebook.nearest(matching).assign(&values).unwrap();
        for (x, id) in values.chunks(3).zip(found) {
            let of = |i: usize| score(x, &centers[i * 3..i * 3 + 3], matching);
            let best = (0..20).map(of).fold(f32::NEG_INFINITY, f32::max);
            assert!(
                of(id as usize) >= best - 1e-4 * best.abs().max(1.0),
                "{matching:?}"
            );
        }
    }
}

#[test]
fn cached_features_equal_extracted_ones() {
    let registry = Registry::builtin();
    let images = Colors(40);
    with_cx(&registry, |cx| {
        let with = Config::from_value(json!({"kind": "pixels"}));
        let features = registry.build_features(&with, cx).unwrap();
        let order: Vec<usize> = (0..40).rev().collect();
        let fresh = rows::Rows::new(features.as_ref(), &images, false)
            .get(&order)
            .unwrap();
        let mut cached = rows::Rows::new(features.as_ref(), &images, true);
        // Some images are already cached.
        cached.get(&[3, 30]).unwrap();
        for _ in 0..2 {
            assert!(cached.get(&order).unwrap() == fresh);
        }
        assert!(cached.get(&[7]).unwrap() == fresh[32 * 48..33 * 48]);
    });
}
