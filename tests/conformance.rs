//! What every registered tokenizer and feature must hold, whoever wrote it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use serde_json::{Value, json};
use tessera::data::{self, CropForm, Dataset, EvalTransform, TrainStream, ViewPlan};
use tessera::{
    BuildContext, Config, Grid, Needs, Registry, Split, Targets, Tokenizer, TokenizerFactory,
};

/// Side of the images and of the grid of patches: those of the embedded models.
const SIDE: usize = 32;
const GRID: Grid = Grid { rows: 8, cols: 8 };
/// Images per split.
const TRAIN: usize = 40;
const VAL: usize = 10;

/// A configuration of every kind of features; a new kind gets its line here.
fn sample_features(kind: &str) -> Value {
    match kind {
        "pixels" => json!({"kind": "pixels", "normalize": "per-patch"}),
        "hog" => json!({"kind": "hog"}),
        "onnx" => json!({"kind": "onnx", "model": "embedded:mosaic_ssl"}),
        other => panic!("no sample configuration of features `{other}` in tests/conformance.rs"),
    }
}

/// A configuration of every kind of tokenizer; a new kind gets its line here. `dir` is a folder for files it reads.
fn sample(kind: &str, dir: &Path) -> Value {
    match kind {
        "kmeans" => json!({"features": {"kind": "pixels"}, "k": 5, "epochs": 1, "batch": 16}),
        "onnx-ids" => json!({"model": "embedded:mosaic_vq", "codebook_size": 256}),
        "token-file" => {
            for (name, images) in [("train.npy", TRAIN), ("val.npy", VAL)] {
                let patches = GRID.num_patches();
                common::write_ids(&dir.join(name), images, patches, |at| (at * at % 7) as u32);
            }
            json!({"train": dir.join("train.npy"), "val": dir.join("val.npy"), "codebook_size": 7})
        }
        other => panic!("no sample configuration of `{other}` in tests/conformance.rs"),
    }
}

fn images() -> Dataset {
    let dataset = json!({"kind": "mosaics", "seed": 5, "train": TRAIN, "val": VAL, "size": 36});
    let spec = data::parse(&Config::from_value(dataset)).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let scan = data::scan(&spec, cache.path(), &|_, _, _| (), &|| false).unwrap();
    Dataset::open(&spec, &scan).unwrap()
}

const EVAL: EvalTransform = EvalTransform {
    resize_shorter: 36,
    crop: 32,
};

fn build(registry: &Registry) -> BuildContext<'_> {
    BuildContext {
        image_size: SIDE,
        grid: GRID,
        registry,
        threads: 2,
        images: Some([TRAIN, VAL]),
        finest: None,
        fetch: false,
        progress: &|_, _, _| (),
        interrupted: &|| false,
    }
}

/// Calls `check` with a tokenizer of every kind, and how to make it again.
fn every(check: impl Fn(&str, &dyn TokenizerFactory, &dyn Fn() -> Box<dyn Tokenizer>, &Dataset)) {
    let registry = Registry::builtin();
    let images = images();
    let build = build(&registry);
    for (factory, sample) in samples(&registry) {
        let with = Config::from_value(sample.value.clone());
        factory.validate(&with, &build).unwrap();
        let make = || match factory.learns() {
            true => factory
                .fit(&with, &TrainStream::new(&images, EVAL), 7, &build)
                .unwrap(),
            false => factory.build(&with, &build).unwrap(),
        };
        check(&sample.name, factory, &make, &images);
    }
}

/// A configuration and the files it reads.
struct Sample {
    name: String,
    value: Value,
    _files: tempfile::TempDir,
}

/// Every tokenizer; the continuous one once with every kind of features.
fn samples(registry: &Registry) -> Vec<(&dyn TokenizerFactory, Sample)> {
    let mut all = Vec::new();
    for factory in registry.tokenizers() {
        let mut add = |name: String, value: &dyn Fn(&Path) -> Value| {
            let files = tempfile::tempdir().unwrap();
            let value = value(files.path());
            all.push((
                factory,
                Sample {
                    name,
                    value,
                    _files: files,
                },
            ));
        };
        match factory.kind() {
            "continuous" => registry.features().for_each(|features| {
                let name = format!("continuous {}", features.kind());
                add(
                    name,
                    &|_| json!({"features": sample_features(features.kind())}),
                );
            }),
            kind => add(kind.to_owned(), &|dir| sample(kind, dir)),
        }
    }
    all
}

fn numbers(targets: &Targets) -> Vec<f32> {
    match targets {
        Targets::Ids(ids) => {
            let ids: Vec<u32> = ids.flatten_all().unwrap().to_vec1().unwrap();
            ids.into_iter().map(|id| id as f32).collect()
        }
        Targets::Values(values) => values.flatten_all().unwrap().to_vec1().unwrap(),
    }
}

/// Equal to the bit; says where not, and by how much.
fn same(kind: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{kind}");
    let different = a.iter().zip(b).filter(|(a, b)| a != b);
    let largest = different
        .clone()
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let count = different.count();
    assert!(
        count == 0,
        "{kind}: {count} of {} differ, by at most {largest:e}",
        a.len()
    );
}

#[test]
fn targets_have_the_promised_shape_and_range() {
    every(|kind, _, make, images| {
        let tokenizer = make();
        let view = images
            .view(Split::Train, &[0, 3, 9], ViewPlan::Eval, EVAL)
            .unwrap();
        let targets = tokenizer.tokenize(&view.as_view()).unwrap();
        let targets = targets
            .checked(tokenizer.target(), 3, GRID.num_patches())
            .unwrap();
        if let Some(codes) = tokenizer.target().codebook_size() {
            assert!(
                numbers(&targets).iter().all(|id| (*id as usize) < codes),
                "{kind}"
            );
        }
        assert!(numbers(&targets).iter().all(|v| v.is_finite()), "{kind}");
    });
}

#[test]
fn an_image_alone_and_in_a_batch_has_the_same_targets() {
    every(|kind, factory, make, images| {
        let tokenizer = make();
        let of = |indices: &[usize]| {
            let plan = match factory.needs() {
                Needs::SampleIds => ViewPlan::Eval,
                _ => ViewPlan::RandomResizedCrop {
                    seed: 1,
                    epoch: 2,
                    scale: (0.2, 1.0),
                    form: CropForm::Torchvision,
                },
            };
            let view = images.view(Split::Train, indices, plan, EVAL).unwrap();
            numbers(&tokenizer.tokenize(&view.as_view()).unwrap())
        };
        let together = of(&[4, 1, 8]);
        let apart: Vec<f32> = [4, 1, 8].iter().flat_map(|index| of(&[*index])).collect();
        same(kind, &together, &apart);
    });
}

#[test]
fn making_it_twice_gives_the_same_tokenizer() {
    every(|kind, _, make, images| {
        let (a, b) = (make(), make());
        assert_eq!(a.fingerprint(), b.fingerprint(), "{kind}");
        let view = images
            .view(Split::Val, &[2, 5], ViewPlan::Eval, EVAL)
            .unwrap();
        let of = |t: &dyn Tokenizer| numbers(&t.tokenize(&view.as_view()).unwrap());
        same(kind, &of(a.as_ref()), &of(b.as_ref()));
    });
}

#[test]
fn what_is_learned_survives_saving() {
    let registry = Registry::builtin();
    every(|kind, factory, make, images| {
        if !factory.learns() {
            return;
        }
        let build = build(&registry);
        let fitted = make();
        let dir = tempfile::tempdir().unwrap();
        fitted.save(dir.path()).unwrap();
        let with = Config::from_value(sample(kind, dir.path()));
        let loaded = factory.load(&with, dir.path(), &build).unwrap();
        assert_eq!(loaded.fingerprint(), fitted.fingerprint(), "{kind}");
        let view = images
            .view(Split::Val, &[0, 1], ViewPlan::Eval, EVAL)
            .unwrap();
        let of = |t: &dyn Tokenizer| numbers(&t.tokenize(&view.as_view()).unwrap());
        same(kind, &of(loaded.as_ref()), &of(fitted.as_ref()));
    });
}
