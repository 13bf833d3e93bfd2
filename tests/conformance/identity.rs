//! What identifies a tokenizer: its fingerprint, its seed, and the folder that it saves.

use serde_json::{Value, json};
use tessera::data::{Dataset, TrainStream, ViewPlan};
use tessera::{BuildContext, Config, Registry, Split, Tokenizer, TokenizerFactory};

use super::{Case, EVAL, build, every, images, laid_over, numbers, same, sample, samples};

/// Returns what identifies a tokenizer in keys: its fingerprint, and for a learned one the fingerprint of the inputs of its fit.
fn identity(
    factory: &dyn TokenizerFactory,
    value: &Value,
    images: &Dataset,
    build: &BuildContext<'_>,
) -> String {
    let with = Config::from_value(value.clone());
    if !factory.learns() {
        return factory.build(&with, build).unwrap().fingerprint().0;
    }
    let inputs = factory.fit_inputs(&with, build).unwrap();
    let stream = TrainStream::new(images, EVAL);
    let fitted = factory.fit(&with, &stream, 7, build).unwrap();
    format!("{inputs} {}", fitted.fingerprint())
}

#[test]
fn exactly_the_fields_that_change_targets_change_the_fingerprint() {
    let registry = Registry::builtin();
    let images = images();
    let build = build(&registry, &images);
    for (factory, sample) in samples(&registry) {
        let Case {
            value,
            changes,
            same,
        } = &sample.case;
        let of = |fields: &Value| identity(factory, &laid_over(value, fields), &images, &build);
        let before = of(&json!({}));
        let mut seen = vec![before.clone()];
        for fields in changes {
            let after = of(fields);
            assert!(
                !seen.contains(&after),
                "{}: {fields} changes nothing",
                sample.name
            );
            seen.push(after);
        }
        for fields in same {
            assert_eq!(of(fields), before, "{}: {fields} changes it", sample.name);
        }
    }
}

#[test]
fn the_fit_depends_on_the_seed() {
    let registry = Registry::builtin();
    let images = images();
    let build = build(&registry, &images);
    for (factory, sample) in samples(&registry) {
        let with = Config::from_value(sample.case.value);
        if factory.learns() {
            let stream = TrainStream::new(&images, EVAL);
            let fitted = |seed| factory.fit(&with, &stream, seed, &build).unwrap();
            assert_ne!(
                fitted(7).fingerprint(),
                fitted(8).fingerprint(),
                "{}",
                sample.name
            );
        }
    }
}

#[test]
fn building_twice_gives_the_same_tokenizer() {
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
fn a_fitted_tokenizer_survives_saving() {
    let registry = Registry::builtin();
    every(|kind, factory, make, images| {
        if !factory.learns() {
            return;
        }
        let build = build(&registry, images);
        let fitted = make();
        let dir = tempfile::tempdir().unwrap();
        fitted.save(dir.path()).unwrap();
        let with = Config::from_value(sample(kind, dir.path()).value);
        let loaded = factory.load(&with, dir.path(), &build).unwrap();
        assert_eq!(loaded.fingerprint(), fitted.fingerprint(), "{kind}");
        let view = images
            .view(Split::Val, &[0, 1], ViewPlan::Eval, EVAL)
            .unwrap();
        let of = |t: &dyn Tokenizer| numbers(&t.tokenize(&view.as_view()).unwrap());
        same(kind, &of(loaded.as_ref()), &of(fitted.as_ref()));
    });
}
