//! What every registered tokenizer and feature must hold, whoever wrote it.

use serde_json::{Value, json};
use tessera::data::{self, Dataset, EvalTransform, TrainStream, ViewPlan};
use tessera::{BuildContext, Config, Grid, Registry, Split, Targets, Tokenizer, TokenizerFactory};

const SIDE: usize = 16;

/// A configuration of every kind; a new kind gets its line here.
fn sample(kind: &str) -> Value {
    match kind {
        "continuous" => json!({"features": {"kind": "hog"}}),
        "kmeans" => json!({"features": {"kind": "pixels"}, "k": 5, "epochs": 1, "batch": 16}),
        other => panic!("no sample configuration of `{other}` in tests/conformance.rs"),
    }
}

fn images() -> Dataset {
    let dataset = json!({"kind": "mosaics", "seed": 5, "train": 40, "val": 10, "size": 24});
    let spec = data::parse(&Config::from_value(dataset)).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let scan = data::scan(&spec, cache.path(), &|_, _, _| (), &|| false).unwrap();
    Dataset::open(&spec, &scan).unwrap()
}

const EVAL: EvalTransform = EvalTransform {
    resize_shorter: 24,
    crop: 20,
};

/// Calls `check` with a tokenizer of every kind, and how to make it again.
fn every(check: impl Fn(&str, &dyn TokenizerFactory, &dyn Fn() -> Box<dyn Tokenizer>, &Dataset)) {
    let registry = Registry::builtin();
    let images = images();
    let build = BuildContext {
        image_size: SIDE,
        grid: Grid { rows: 4, cols: 4 },
        registry: &registry,
        threads: 2,
        images: None,
        progress: &|_, _, _| (),
        interrupted: &|| false,
    };
    for factory in registry.tokenizers() {
        let with = Config::from_value(sample(factory.kind()));
        factory.validate(&with, &build).unwrap();
        let make = || match factory.learns() {
            true => factory
                .fit(&with, &TrainStream::new(&images, EVAL), 7, &build)
                .unwrap(),
            false => factory.build(&with, &build).unwrap(),
        };
        check(factory.kind(), factory, &make, &images);
    }
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

#[test]
fn targets_have_the_promised_shape_and_range() {
    every(|kind, _, make, images| {
        let tokenizer = make();
        let view = images
            .view(Split::Train, &[0, 3, 9], ViewPlan::Eval, EVAL)
            .unwrap();
        let targets = tokenizer.tokenize(&view.as_view()).unwrap();
        let targets = targets.checked(tokenizer.target(), 3, 16).unwrap();
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
    every(|kind, _, make, images| {
        let tokenizer = make();
        let of = |indices: &[usize]| {
            let plan = ViewPlan::RandomResizedCrop {
                seed: 1,
                epoch: 2,
                scale: (0.2, 1.0),
            };
            let view = images.view(Split::Train, indices, plan, EVAL).unwrap();
            numbers(&tokenizer.tokenize(&view.as_view()).unwrap())
        };
        let together = of(&[4, 1, 8]);
        let apart: Vec<f32> = [4, 1, 8].iter().flat_map(|index| of(&[*index])).collect();
        assert_eq!(together, apart, "{kind}");
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
        assert_eq!(of(a.as_ref()), of(b.as_ref()), "{kind}");
    });
}

#[test]
fn what_is_learned_survives_saving() {
    let registry = Registry::builtin();
    every(|kind, factory, make, images| {
        if !factory.learns() {
            return;
        }
        let build = BuildContext {
            image_size: SIDE,
            grid: Grid { rows: 4, cols: 4 },
            registry: &registry,
            threads: 2,
            images: None,
            progress: &|_, _, _| (),
            interrupted: &|| false,
        };
        let fitted = make();
        let dir = tempfile::tempdir().unwrap();
        fitted.save(dir.path()).unwrap();
        let with = Config::from_value(sample(kind));
        let loaded = factory.load(&with, dir.path(), &build).unwrap();
        assert_eq!(loaded.fingerprint(), fitted.fingerprint(), "{kind}");
        let view = images
            .view(Split::Val, &[0, 1], ViewPlan::Eval, EVAL)
            .unwrap();
        let of = |t: &dyn Tokenizer| numbers(&t.tokenize(&view.as_view()).unwrap());
        assert_eq!(of(loaded.as_ref()), of(fitted.as_ref()), "{kind}");
    });
}
