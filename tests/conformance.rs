//! Requirements on every registered tokenizer and feature.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "conformance/identity.rs"]
mod identity;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};
use tessera::data::{self, CropForm, Dataset, EvalTransform, TrainStream, ViewPlan};
use tessera::{
    BuildContext, Config, Grid, Labels, Needs, Registry, Split, Targets, Tokenizer,
    TokenizerFactory,
};
use tessera_models::vit::{self, VitConfig};

/// Side of the images and grid of the patches, as for the embedded models.
const SIDE: usize = 32;
const GRID: Grid = Grid { rows: 8, cols: 8 };
const TRAIN: usize = 40;
const VAL: usize = 10;

/// A configuration, and fields that are merged into it.
struct Case {
    value: Value,
    /// Fields that change targets, so each must change the fingerprint.
    changes: Vec<Value>,
    /// Fields that change no target, so none may change the fingerprint.
    same: Vec<Value>,
}

/// Returns a configuration for each kind of features. Add an arm for a new kind. `dir` is a folder for files that it reads.
fn sample_features(kind: &str, dir: &Path) -> Case {
    let value = match kind {
        "pixels" => json!({"kind": "pixels", "normalize": "per-patch"}),
        "hog" => json!({"kind": "hog"}),
        "checkpoint" => {
            json!({"kind": "checkpoint", "file": encoder(dir, "encoder.safetensors", 3)})
        }
        "onnx" => {
            let model = copied("mosaic_ssl", dir);
            json!({"kind": "onnx", "model": model, "input": {"scale": "imagenet"}})
        }
        other => panic!("no sample configuration of features `{other}` in tests/conformance.rs"),
    };
    let (changes, same) = match kind {
        "pixels" => (
            vec![
                json!({"normalize": "none"}),
                json!({"kind": "hog", "normalize": null}),
            ],
            vec![],
        ),
        "checkpoint" => (
            vec![json!({"file": encoder(dir, "other.safetensors", 4)})],
            // The same bytes in another file, and the size that the file itself defines.
            vec![
                json!({"file": encoder(dir, "copy.safetensors", 3)}),
                json!({"variant": "nano"}),
                json!({"saw_labels": true}),
            ],
        ),
        "onnx" => (
            vec![json!({"input": {"scale": "zero-one"}}), json!({"batch": 3})],
            vec![
                json!({"saw_labels": true}),
                json!({"input": {"side": SIDE}}),
                json!({"model": "embedded:mosaic_ssl"}),
            ],
        ),
        _ => (vec![], vec![]),
    };
    Case {
        value,
        changes,
        same,
    }
}

/// Writes a checkpoint of a small model with random weights.
fn encoder(dir: &Path, name: &str, seed: u64) -> PathBuf {
    let vit = VitConfig {
        preset: vit::preset("nano").unwrap(),
        image_size: SIDE,
        patch_size: SIDE / GRID.cols,
    };
    let file = dir.join(name);
    let params = vit::encoder(&vit, seed).unwrap();
    params.save(&file, vit.metadata("none", false)).unwrap();
    file
}

/// Returns a configuration for each kind of tokenizer. Add an arm for a new kind. `dir` is a folder for files that it reads.
fn sample(kind: &str, dir: &Path) -> Case {
    match kind {
        "kmeans" => Case {
            value: json!({"features": {"kind": "pixels"}, "k": 5, "epochs": 1, "batch": 16}),
            changes: vec![
                json!({"features": {"normalize": "per-patch"}}),
                json!({"features": {"kind": "hog"}}),
                json!({"k": 6}),
                json!({"epochs": 2}),
                json!({"batch": 8}),
                json!({"matching": "cosine"}),
                json!({"algorithm": "lloyd"}),
                json!({"init": "random"}),
                json!({"restarts": 2}),
                json!({"held_out": 4}),
            ],
            same: vec![
                json!({"matching": "euclidean", "algorithm": "mini-batch", "restarts": 1}),
                json!({"features": {"normalize": "none"}, "engine": "gemm", "held_out": 0}),
            ],
        },
        "product-kmeans" | "residual-kmeans" => {
            let (field, other) = match kind {
                "product-kmeans" => ("groups", json!({"matching": "cosine"})),
                _ => ("levels", json!({"held_out": 4})),
            };
            let mut value =
                json!({"features": {"kind": "pixels"}, "k": 5, "epochs": 1, "batch": 16});
            value[field] = json!(3);
            Case {
                value,
                changes: vec![
                    json!({"features": {"normalize": "per-patch"}}),
                    json!({"k": 6}),
                    json!({field: 2}),
                    json!({"epochs": 2}),
                    json!({"algorithm": "lloyd"}),
                    json!({"restarts": 2}),
                    other,
                ],
                same: vec![json!({"matching": "euclidean", "features": {"normalize": "none"}})],
            }
        }
        "onnx-ids" => Case {
            value: json!({
                "model": copied("mosaic_vq", dir), "codebook_size": 256, "input": {"scale": "zero-one"},
            }),
            changes: vec![
                json!({"input": {"scale": "imagenet"}}),
                json!({"codebook_size": 257}),
                json!({"batch": 3}),
            ],
            same: vec![
                json!({"saw_labels": true}),
                json!({"input": {"side": SIDE}}),
                json!({"model": "embedded:mosaic_vq"}),
            ],
        },
        "oracle" => Case {
            value: json!({}),
            changes: vec![],
            same: vec![],
        },
        "random" => Case {
            value: json!({"codebook_size": 7}),
            changes: vec![
                json!({"per": "position"}),
                json!({"per": "image"}),
                json!({"codebook_size": 8}),
                json!({"seed": 1}),
            ],
            same: vec![json!({"per": "patch", "seed": 0})],
        },
        "random-projection" => Case {
            value: json!({"features": {"kind": "pixels"}, "codebook_size": 7}),
            changes: vec![
                json!({"features": {"kind": "hog"}}),
                json!({"codebook_size": 8}),
                json!({"dim": 8}),
                json!({"seed": 1}),
            ],
            same: vec![json!({"dim": 16, "features": {"normalize": "none"}})],
        },
        "token-file" => {
            for (name, images, codes) in [
                ("train.npy", TRAIN, 7),
                ("val.npy", VAL, 7),
                ("copy.npy", TRAIN, 7),
                ("other.npy", TRAIN, 6),
            ] {
                let patches = GRID.num_patches();
                common::write_ids(&dir.join(name), images, patches, |at| {
                    (at * at % codes) as u32
                });
            }
            let file = |name: &str| dir.join(name);
            Case {
                value: json!({"train": file("train.npy"), "val": file("val.npy"), "codebook_size": 7}),
                changes: vec![
                    json!({"train": file("other.npy")}),
                    json!({"codebook_size": 8}),
                ],
                same: vec![
                    json!({"train": file("copy.npy")}),
                    json!({"saw_labels": true}),
                ],
            }
        }
        "command" => {
            let program = common::programs::tokenizer();
            Case {
                value: json!({"command": [program, "4", "8"], "codebook_size": 8}),
                changes: vec![
                    json!({"command": [program, "4", "7"]}),
                    json!({"codebook_size": 9}),
                    json!({"version": 2}),
                    json!({"batch": 3}),
                    json!({"input": {"scale": "imagenet"}, "codebook_size": 30}),
                ],
                same: vec![
                    json!({"saw_labels": true}),
                    json!({"workers": 3, "timeout": 9}),
                    json!({"input": {"side": SIDE, "scale": "zero-one"}}),
                ],
            }
        }
        "python" => {
            std::fs::write(dir.join("mine.py"), common::programs::PYTHON).unwrap();
            // Modules are looked for beside the suite, which the test has not: the interpreter is a script that knows the folder.
            let python = dir.join("python");
            let script = format!(
                "#!/bin/sh\nPYTHONPATH={} exec python3 \"$@\"\n",
                dir.display()
            );
            std::fs::write(&python, script).unwrap();
            std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
            Case {
                value: json!({"callable": "mine:tokenize", "python": python, "codebook_size": 8}),
                changes: vec![
                    json!({"callable": "mine:flat"}),
                    json!({"version": 2}),
                    json!({"callable": "mine:means", "codebook_size": null, "dim": 3}),
                ],
                same: vec![json!({"workers": 2})],
            }
        }
        other => panic!("no sample configuration of `{other}` in tests/conformance.rs"),
    }
}

fn copied(model: &str, dir: &Path) -> PathBuf {
    let name = format!("{model}.onnx");
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tokenizers/embedded");
    std::fs::copy(embedded.join(&name), dir.join(&name)).unwrap();
    dir.join(&name)
}

/// Merges `fields` into `value`, recursively for mappings; null removes a field.
fn laid_over(value: &Value, fields: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (value, fields) else {
        return fields.clone();
    };
    let mut all = old.clone();
    for (key, field) in new {
        let before = all.shift_remove(key).unwrap_or(Value::Null);
        if !field.is_null() {
            all.insert(key.clone(), laid_over(&before, field));
        }
    }
    Value::Object(all)
}

fn images() -> Dataset {
    let dataset = json!({"kind": "mosaics", "seed": 5, "train": TRAIN, "val": VAL, "size": 36});
    let spec = Registry::builtin()
        .dataset(&Config::from_value(dataset))
        .unwrap();
    let cache = tempfile::tempdir().unwrap();
    let scan = data::scan(spec.as_ref(), cache.path(), &|_, _, _| (), &|| false).unwrap();
    Dataset::open(spec.as_ref(), &scan).unwrap()
}

const EVAL: EvalTransform = EvalTransform {
    resize_shorter: 36,
    crop: 32,
};

fn build<'a>(registry: &'a Registry, images: &'a Dataset) -> BuildContext<'a> {
    let [train, val] = [Split::Train, Split::Val].map(|split| images.labels(split));
    BuildContext {
        threads: 2,
        images: Some([TRAIN, VAL]),
        labels: Some(Labels {
            classes: 1 + *train.iter().chain(val).max().unwrap() as usize,
            train,
            val,
        }),
        ..BuildContext::alone(registry, SIDE, GRID)
    }
}

/// Calls `check` with a tokenizer of every kind and a function that builds it again.
fn every(
    check: impl Fn(&str, &dyn TokenizerFactory, &(dyn Fn() -> Box<dyn Tokenizer> + Sync), &Dataset),
) {
    let registry = Registry::builtin();
    let images = images();
    let build = build(&registry, &images);
    for (factory, sample) in samples(&registry) {
        let with = Config::from_value(sample.case.value.clone());
        factory.validate(&with, &build).unwrap();
        let plan = factory.plan(&with, &build).unwrap();
        assert_eq!(plan.fit.is_some(), factory.learns(), "{}", sample.name);
        let make = || {
            let made = match factory.learns() {
                true => factory.fit(&with, &TrainStream::new(&images, EVAL), 7, &build),
                false => factory.build(&with, &build),
            };
            let made = made.unwrap();
            let known = (plan.target, plan.looks_up);
            assert_eq!(known, (Some(made.target()), made.looks_up()));
            made
        };
        check(&sample.name, factory, &make, &images);
    }
}

/// A configuration and the folder of the files that it reads.
struct Sample {
    name: String,
    case: Case,
    _files: tempfile::TempDir,
}

/// Returns a sample of every tokenizer, and of the continuous one with every kind of features.
fn samples(registry: &Registry) -> Vec<(&dyn TokenizerFactory, Sample)> {
    let mut all = Vec::new();
    for factory in registry.tokenizers() {
        let mut add = |name: String, case: &dyn Fn(&Path) -> Case| {
            let files = tempfile::tempdir().unwrap();
            let case = case(files.path());
            all.push((
                factory,
                Sample {
                    name,
                    case,
                    _files: files,
                },
            ));
        };
        match factory.kind() {
            "continuous" => registry.features().for_each(|features| {
                let name = format!("continuous {}", features.kind());
                add(name, &|dir| {
                    let Case {
                        value,
                        changes,
                        same,
                    } = sample_features(features.kind(), dir);
                    let within = |value: Value| json!({"features": value});
                    Case {
                        value: within(value),
                        changes: changes.into_iter().map(within).collect(),
                        same: same.into_iter().map(within).collect(),
                    }
                });
            }),
            "python" if !common::programs::python() => (),
            kind => add(kind.to_owned(), &|dir| sample(kind, dir)),
        }
    }
    all
}

fn numbers(targets: &Targets) -> Vec<f32> {
    match targets {
        Targets::Ids(ids) | Targets::Codes(ids, _) => {
            let ids: Vec<u32> = ids.flatten_all().unwrap().to_vec1().unwrap();
            ids.into_iter().map(|id| id as f32).collect()
        }
        Targets::Values(values) => values.flatten_all().unwrap().to_vec1().unwrap(),
    }
}

/// Asserts equality to the bit; reports the first difference and its size.
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
        if tokenizer.target().is_discrete() {
            let codes = tokenizer.target().codebook_size().unwrap();
            let ids = targets.ids().unwrap().flatten_all().unwrap();
            let ids = ids.to_vec1::<u32>().unwrap();
            assert!(ids.iter().all(|id| (*id as usize) < codes), "{kind}");
        }
        assert!(numbers(&targets).iter().all(|v| v.is_finite()), "{kind}");
    });
}

/// Returns the targets of images under random crops, if the kind supports them, otherwise under the fixed view.
fn targets(
    factory: &dyn TokenizerFactory,
    tokenizer: &dyn Tokenizer,
    images: &Dataset,
    indices: &[usize],
) -> Vec<f32> {
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
}

/// Eight indices in no order, with one repeated.
const EIGHT: [usize; 8] = [4, 1, 8, 39, 0, 17, 1, 22];

#[test]
fn an_image_alone_and_in_a_batch_of_eight_has_the_same_targets() {
    every(|kind, factory, make, images| {
        let tokenizer = make();
        let of = |indices: &[usize]| targets(factory, tokenizer.as_ref(), images, indices);
        let together = of(&EIGHT);
        let apart: Vec<f32> = EIGHT.iter().flat_map(|index| of(&[*index])).collect();
        same(kind, &together, &apart);
    });
}

#[test]
fn targets_do_not_depend_on_the_number_of_threads() {
    every(|kind, factory, make, images| {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let tokenizer = make();
                let parts = EIGHT.par_chunks(2);
                let of = |part: &[usize]| targets(factory, tokenizer.as_ref(), images, part);
                let all: Vec<Vec<f32>> = parts.map(of).collect();
                (tokenizer.fingerprint(), all.concat())
            })
        };
        let ((one, a), (two, b)) = (on(1), on(2));
        assert_eq!(one, two, "{kind}");
        same(kind, &a, &b);
    });
}

#[test]
fn a_grid_that_does_not_fit_is_refused() {
    let registry = Registry::builtin();
    let images = images();
    for (factory, sample) in samples(&registry) {
        let with = Config::from_value(sample.case.value);
        // Patches of a fraction of a pixel, and patches that are not square.
        for (rows, cols) in [(5, 5), (3, 3), (8, 4)] {
            let build = BuildContext {
                grid: Grid { rows, cols },
                ..build(&registry, &images)
            };
            // The shape of a program's targets is known when it runs.
            let refused = match factory.starts_programs() {
                true => factory.build(&with, &build).err(),
                false => factory.validate(&with, &build).err(),
            };
            let refused = refused.unwrap_or_else(|| panic!("{}: {rows}x{cols}", sample.name));
            let said = refused.to_string();
            // A file's shape reads [images, 5, 5].
            let names = [format!("{rows}x{cols}"), format!("{rows}, {cols}]")];
            assert!(
                names.iter().any(|name| said.contains(name)),
                "{}: {said}",
                sample.name
            );
        }
    }
}
