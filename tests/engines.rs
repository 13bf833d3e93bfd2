//! Compares ONNX Runtime and rten: the same features and ids, in any batch. A process has one engine, so each engine runs in a child
//! process of this program.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "onnx")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::onnx::with_output;
use common::{Bench, onnxruntime, skipped};
use rayon::prelude::*;
use serde_json::{Value, json};
use tessera::data::{self, Dataset, EvalTransform, ViewPlan};
use tessera::{BuildContext, Config, Grid, Registry, Split, Targets};

/// Environment variables of a child: the job as JSON, and the output file.
const JOB: &str = "TESSERA_TEST_JOB";
const OUT: &str = "TESSERA_TEST_OUT";

/// If set, the test of 200 photographs runs.
const LONG: &str = "TESSERA_LONG_TESTS";

/// A graph over the train images of a dataset.
struct Job {
    dataset: Value,
    /// `onnx-ids` or `continuous`, and its fields.
    kind: &'static str,
    with: Value,
    side: usize,
    rows: usize,
    /// Number of images per request.
    together: usize,
    /// Rotation of the order of the images, which changes their positions in a request.
    turned: usize,
}

impl Job {
    /// Returns the targets of the images under an engine, patch by patch, with ids as numbers.
    fn run(&self, engine: &str) -> Vec<f32> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let job = json!({
            "dataset": self.dataset, "kind": self.kind, "with": self.with, "side": self.side, "rows": self.rows,
            "together": self.together, "turned": self.turned,
        });
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(JOB, job.to_string())
            .env(OUT, file.path())
            .env("TESSERA_ONNX", engine)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{engine}: {}",
            common::error(&output)
        );
        let bytes = std::fs::read(file.path()).unwrap();
        let numbers = bytes.chunks_exact(4);
        numbers
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }
}

/// The child process of [`Job::run`]; as a test, it does nothing.
#[test]
fn child() {
    let (Ok(job), Ok(out)) = (std::env::var(JOB), std::env::var(OUT)) else {
        return;
    };
    let job: Value = serde_json::from_str(&job).unwrap();
    let size = |name: &str| job[name].as_u64().unwrap() as usize;
    let registry = Registry::builtin();
    let build = BuildContext {
        threads: 2,
        ..BuildContext::alone(
            &registry,
            size("side"),
            Grid {
                rows: size("rows"),
                cols: size("rows"),
            },
        )
    };
    let with = Config::from_value(job["with"].clone());
    let kind = job["kind"].as_str().unwrap();
    let tokenizer = registry
        .tokenizer(kind, &with)
        .unwrap()
        .build(&with, &build)
        .unwrap();
    let spec = Registry::builtin()
        .dataset(&Config::from_value(job["dataset"].clone()))
        .unwrap();
    let cache = tempfile::tempdir().unwrap();
    let scan = data::scan(spec.as_ref(), cache.path(), &|_, _, _| (), &|| false).unwrap();
    let images = Dataset::open(spec.as_ref(), &scan).unwrap();
    let eval = EvalTransform {
        resize_shorter: size("side") * 8 / 7,
        crop: size("side"),
    };
    let mut all: Vec<usize> = (0..images.len(Split::Train)).collect();
    all.rotate_left(size("turned"));
    let numbers = all.par_chunks(size("together")).flat_map_iter(|shard| {
        let view = images
            .view(Split::Train, shard, ViewPlan::Eval, eval)
            .unwrap();
        match tokenizer.tokenize(&view.as_view()).unwrap() {
            Targets::Ids(ids) | Targets::Codes(ids, _) => {
                let ids: Vec<u32> = ids.flatten_all().unwrap().to_vec1().unwrap();
                ids.into_iter().map(|id| id as f32).collect()
            }
            Targets::Values(values) => values.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        }
    });
    let mut numbers: Vec<f32> = numbers.collect();
    let per_image = numbers.len() / all.len();
    numbers.rotate_right(size("turned") * per_image);
    let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(out, bytes).unwrap();
}

/// Returns the largest difference, relative to the largest number.
fn relative(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    let largest = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!(largest > 0.0);
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    difference.fold(0.0, f32::max) / largest
}

/// Returns the patches whose ids differ.
fn different(a: &[f32], b: &[f32]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().any(|id| *id != a[0]), "all ids are equal");
    (0..a.len()).filter(|at| a[*at] != b[*at]).collect()
}

fn mosaics(kind: &'static str, with: Value) -> Job {
    let dataset = json!({"kind": "mosaics", "seed": 7, "train": 64, "val": 2, "size": 40});
    Job {
        dataset,
        kind,
        with,
        side: 32,
        rows: 8,
        together: 16,
        turned: 0,
    }
}

#[test]
fn both_engines_agree_on_the_embedded_models() {
    if !onnxruntime() {
        return;
    }
    let job = mosaics(
        "continuous",
        json!({"features": {"kind": "onnx", "model": "embedded:mosaic_ssl"}}),
    );
    let found = relative(&job.run("onnxruntime"), &job.run("rten"));
    assert!(found <= 1e-3, "features differ by {found:e}");
    let with = json!({"model": "embedded:mosaic_vq", "codebook_size": 256});
    let job = mosaics("onnx-ids", with);
    let (ours, theirs) = (job.run("rten"), job.run("onnxruntime"));
    // 1e-4 of these patches is less than one patch, so none may differ.
    assert_eq!(different(&ours, &theirs), Vec::<usize>::new());
}

/// Returns the embedded models as rows: kind and fields.
fn embedded() -> Vec<(&'static str, Value)> {
    let ids = ["mosaic_vq", "mosaic_vqgan", "mosaic_perceptual"].map(|name| {
        let model = format!("embedded:{name}");
        ("onnx-ids", json!({"model": model, "codebook_size": 256}))
    });
    let features = ["mosaic_ssl", "mosaic_deit"].map(|name| {
        let model = format!("embedded:{name}");
        (
            "continuous",
            json!({"features": {"kind": "onnx", "model": model}}),
        )
    });
    ids.into_iter().chain(features).collect()
}

/// Returns the available real encoders as rows: kind and fields.
fn real() -> Vec<(&'static str, Value)> {
    let (features, ids) = (
        shared_model("mobilenet_v2_block12.onnx"),
        shared_model("vq_taef2_k512_ids_112.onnx"),
    );
    let input = json!({"scale": "zero-one"});
    let mut found = Vec::new();
    if features.is_file() {
        let with = json!({"kind": "onnx", "model": features, "input": input});
        found.push(("continuous", json!({"features": with})));
    }
    if ids.is_file() {
        let with = json!({"model": ids, "codebook_size": 512, "input": input});
        found.push(("onnx-ids", with));
    }
    if found.len() < 2 {
        skipped("../shared/models lacks at least one of the two real encoders");
    }
    found
}

/// Returns the bits, so that the comparison includes the sign of zero and NaN.
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Compares single images with batches of 2, 5 and 16, other positions in them, and calls with several threads.
fn no_neighbour_changes_a_bit(engine: &str, job: impl Fn() -> Job) {
    let alone = Job {
        together: 1,
        ..job()
    }
    .run(engine);
    for (together, turned) in [(2, 0), (2, 1), (5, 0), (5, 2), (16, 0), (16, 7)] {
        let found = Job {
            together,
            turned,
            ..job()
        }
        .run(engine);
        let name = &job().with;
        assert!(
            bits(&found) == bits(&alone),
            "{engine}, {together} turned by {turned}: {name}"
        );
    }
}

#[test]
fn targets_do_not_depend_on_the_batch() {
    let engines = if onnxruntime() {
        vec!["rten", "onnxruntime"]
    } else {
        vec!["rten"]
    };
    for engine in engines {
        for (kind, with) in embedded() {
            no_neighbour_changes_a_bit(engine, || mosaics(kind, with.clone()));
        }
        for (kind, with) in real() {
            let dataset = json!({"kind": "mosaics", "seed": 7, "train": 20, "val": 2, "size": 112});
            let job = || Job {
                dataset: dataset.clone(),
                side: 224,
                rows: 14,
                ..mosaics(kind, with.clone())
            };
            no_neighbour_changes_a_bit(engine, job);
        }
    }
}

#[test]
fn batch_and_threads_change_no_bit_in_rten() {
    let of = |more: Value| {
        let mut with = json!({"kind": "onnx", "model": "embedded:mosaic_ssl"});
        with.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        bits(&mosaics("continuous", json!({"features": with})).run("rten"))
    };
    let alone = of(json!({"batch": 1}));
    for more in [
        json!({}),
        json!({"batch": 5}),
        json!({"threads": 2}),
        json!({"threads": 3, "batch": 64}),
    ] {
        assert!(alone == of(more.clone()), "{more}");
    }
}

#[test]
fn batch_and_threads_change_no_id_in_onnx_runtime() {
    if !onnxruntime() {
        return;
    }
    let of = |engine: &str, more: Value| {
        let mut with = json!({"model": "embedded:mosaic_vq", "codebook_size": 256});
        with.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        mosaics("onnx-ids", with).run(engine)
    };
    let ours = of("rten", json!({}));
    for more in [
        json!({}),
        json!({"batch": 5}),
        json!({"threads": 2}),
        json!({"threads": 3, "batch": 1}),
    ] {
        let theirs = of("onnxruntime", more.clone());
        assert_eq!(different(&ours, &theirs), Vec::<usize>::new(), "{more}");
    }
}

#[test]
fn a_library_without_cuda_runs_on_the_cpu_with_a_notice() {
    if !onnxruntime() {
        return;
    }
    let bench = Bench::on_32_pixels(
        "onnx-ids",
        "{model: \"embedded:mosaic_vq\", codebook_size: 256, input: {scale: zero-one}}",
    );
    let with = |variable: &str, args: &[&str]| {
        bench
            .command(args)
            .env("TESSERA_ONNX", variable)
            .output()
            .unwrap()
    };
    let doctor = with("cuda", &["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    if doctor.contains(" cuda") {
        skipped("this ONNX Runtime has its CUDA provider: nothing to fall back from");
        return;
    }
    assert!(doctor.contains("without CUDA"), "{doctor}");
    let output = with("cuda", &["score", "suite.yaml", "--out", "cuda"]);
    let said = common::error(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        said.matches("ONNX graphs run on the CPU").count(),
        1,
        "{said}"
    );
    with("onnxruntime", &["score", "suite.yaml", "--out", "cpu"]);
    for name in ["engine", "tcas", "status"] {
        let of = |out: &str| common::column(&bench.path(out), name);
        assert_eq!(of("cuda"), of("cpu"), "{name}");
    }
}

/// Copies 20 photographs of each class of imagenette160 into an image folder.
fn photographs(folder: &Path) -> Option<Value> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/imagenette160/val");
    let mut classes: Vec<PathBuf> = std::fs::read_dir(source)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .collect();
    classes.sort();
    for class in classes.iter().filter(|path| path.is_dir()) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(class)
            .ok()?
            .flatten()
            .map(|e| e.path())
            .collect();
        files.sort();
        for (split, files) in [("train", &files[..20]), ("val", &files[20..21])] {
            let into = folder.join(split).join(class.file_name()?);
            std::fs::create_dir_all(&into).unwrap();
            for file in files {
                let file = file.canonicalize().unwrap();
                std::fs::copy(&file, into.join(file.file_name()?)).unwrap();
            }
        }
    }
    Some(json!({"kind": "image-folder", "root": folder}))
}

fn shared_model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/models")
        .join(name)
}

/// Compares real encoders on 200 photographs. rten takes minutes, so the test runs only on request.
#[test]
fn both_engines_agree_on_real_encoders() {
    if std::env::var_os(LONG).is_none() {
        skipped(&format!(
            "200 photographs in both engines take minutes; {LONG}=1 runs them"
        ));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (features, ids) = (
        shared_model("mobilenet_v2_block12.onnx"),
        shared_model("vq_taef2_k512_ids_112.onnx"),
    );
    let photographs = photographs(folder.path()).filter(|_| features.is_file() && ids.is_file());
    let Some(dataset) = photographs else {
        skipped("../shared has no models or no imagenette160");
        return;
    };
    if !onnxruntime() {
        return;
    }
    let job = |kind, with| Job {
        dataset: dataset.clone(),
        kind,
        with,
        side: 224,
        rows: 14,
        together: 16,
        turned: 0,
    };
    features_agree(&job, &features);
    ids_agree(&job, &ids, folder.path());
}

/// Creates a job on the photographs from kind and fields.
type Make<'a> = &'a dyn Fn(&'static str, Value) -> Job;

fn features_agree(job: Make<'_>, features: &Path) {
    let scale = json!({"custom": {"mean": vec![128.0 / 255.0; 3], "std": vec![128.0 / 255.0; 3]}});
    let encoder = job(
        "continuous",
        json!({"features": {"kind": "onnx", "model": features, "input": {"scale": scale}}}),
    );
    let (ours, theirs) = (encoder.run("rten"), encoder.run("onnxruntime"));
    let found = relative(&theirs, &ours);
    eprintln!(
        "features: {} numbers, largest difference {found:.1e} of the largest",
        ours.len()
    );
    assert!(found <= 1e-3, "features differ by {found:e}");
}

/// Compares ids except ties. `folder` receives a copy of the graph that also outputs its scores.
fn ids_agree(job: Make<'_>, ids: &Path, folder: &Path) {
    let input = json!({"scale": "zero-one"});
    let tokenizer = job(
        "onnx-ids",
        json!({"model": ids, "codebook_size": 512, "input": input}),
    );
    let (ours, theirs) = (tokenizer.run("rten"), tokenizer.run("onnxruntime"));
    let wrong = different(&theirs, &ours);
    let graph = folder.join("scores.onnx");
    std::fs::write(
        &graph,
        with_output(&std::fs::read(ids).unwrap(), "/Conv_output_0"),
    )
    .unwrap();
    let scores = job(
        "continuous",
        json!({"features": {"kind": "onnx", "model": graph, "output": "/Conv_output_0", "input": input}}),
    );
    let scores = [scores.run("onnxruntime"), scores.run("rten")];
    // With larger differences, every patch would count as a tie.
    let apart = relative(&scores[0], &scores[1]);
    assert!(apart <= 1e-4, "scores differ by {apart:e}");
    let ties = wrong.iter().filter(|at| is_tie(&scores, **at, 512)).count();
    let equal = 1.0 - (wrong.len() - ties) as f64 / ours.len() as f64;
    eprintln!(
        "ids: {} patches, {} differ, {ties} of them ties; scores differ by {apart:.1e} of the largest",
        ours.len(),
        wrong.len()
    );
    assert!(
        equal >= 0.9999,
        "{} of {} ids differ",
        wrong.len() - ties,
        ours.len()
    );
}

/// Returns whether the best and second-best score of a patch are closer than the engines' results for the patch.
fn is_tie(scores: &[Vec<f32>; 2], patch: usize, codes: usize) -> bool {
    let [a, b] = [0, 1].map(|engine| &scores[engine][patch * codes..(patch + 1) * codes]);
    let difference = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let mut sorted = a.to_vec();
    sorted.sort_by(|x, y| y.total_cmp(x));
    sorted[0] - sorted[1] <= difference
}
