//! Compares the embedded models with ONNX Runtime's results (tests/fixtures/golden/make.py), through the tokenizers of suites.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;
use tessera::data::{self, Dataset, EvalTransform, ViewPlan};
use tessera::{BuildContext, Config, Grid, InputSpec, Registry, Split, Targets};

const SIDE: usize = 32;
const IMAGES: usize = 16;
const GRID: Grid = Grid { rows: 8, cols: 8 };
const EVAL: EvalTransform = EvalTransform {
    resize_shorter: SIDE,
    crop: SIDE,
};
/// Relative to the largest feature. Another summation order differs by about 1e-6, and the fixture is rounded to 1e-5.
const TOLERANCE: f32 = 1e-4;

/// One golden file.
#[derive(Deserialize)]
struct Golden {
    model: String,
    sha256: String,
    kind: String,
    /// For every patch, the id or the channel with the largest feature.
    winners: Vec<usize>,
    /// `[position, the other winner]` if two scores are nearly equal.
    ties: Vec<(usize, usize)>,
    /// `[images, patches, dim]`.
    shape: Option<[usize; 3]>,
    features: Option<Vec<f32>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

fn golden() -> Vec<Golden> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    files.iter().map(read).collect()
}

fn mosaics() -> Dataset {
    let dataset = json!({"kind": "mosaics", "seed": 0, "train": 10, "val": IMAGES, "size": SIDE});
    let spec = Registry::builtin()
        .dataset(&Config::from_value(dataset))
        .unwrap();
    let cache = tempfile::tempdir().unwrap();
    let scan = data::scan(spec.as_ref(), cache.path(), &|_, _, _| (), &|| false).unwrap();
    Dataset::open(spec.as_ref(), &scan).unwrap()
}

fn indices() -> Vec<usize> {
    (0..IMAGES).collect()
}

/// Returns the results of a suite's row for all images, `[images * patches, width]`, with width 1 for ids.
fn ours(golden: &Golden, images: &Dataset) -> Vec<Vec<f32>> {
    let registry = Registry::builtin();
    let build = BuildContext {
        threads: 2,
        images: Some([10, IMAGES]),
        ..BuildContext::alone(&registry, SIDE, GRID)
    };
    let model = format!("embedded:{}", golden.model);
    let (kind, with) = match golden.kind.as_str() {
        "ids" => {
            let with = json!({"model": model, "codebook_size": 256});
            ("onnx-ids", with)
        }
        _ => (
            "continuous",
            json!({"features": {"kind": "onnx", "model": model}}),
        ),
    };
    let factory = registry.tokenizers().find(|f| f.kind() == kind).unwrap();
    let tokenizer = factory.build(&Config::from_value(with), &build).unwrap();
    let view = images
        .view(Split::Val, &indices(), ViewPlan::Eval, EVAL)
        .unwrap();
    match tokenizer.tokenize(&view.as_view()).unwrap() {
        Targets::Ids(ids) | Targets::Codes(ids, _) => {
            let ids: Vec<u32> = ids.flatten_all().unwrap().to_vec1().unwrap();
            ids.into_iter().map(|id| vec![id as f32]).collect()
        }
        Targets::Values(values) => values.flatten_to(1).unwrap().to_vec2().unwrap(),
    }
}

fn winner(row: &[f32]) -> usize {
    if let [id] = row {
        return *id as usize;
    }
    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    best.unwrap()
}

#[test]
fn the_images_equal_those_of_the_fixture() {
    let file = std::fs::File::open(folder().join("images.npy")).unwrap();
    let expected: Vec<u8> = npyz::NpyFile::new(file).unwrap().into_vec().unwrap();
    let images = mosaics();
    let view = images
        .view(Split::Val, &indices(), ViewPlan::Eval, EVAL)
        .unwrap();
    let bytes = InputSpec {
        side: SIDE,
        mean: [0.0; 3],
        std: [1.0 / 255.0; 3],
    };
    let planes = view.as_view().render(&bytes).unwrap();
    let found: Vec<f32> = planes
        .permute((0, 2, 3, 1))
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let found: Vec<u8> = found.into_iter().map(|v| v.round() as u8).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_embedded_model_has_a_matching_golden_file() {
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tokenizers/embedded");
    let sums = std::fs::read_to_string(embedded.join("SHA256SUMS")).unwrap();
    let golden = golden();
    assert_eq!(golden.len(), sums.lines().count());
    for golden in golden {
        let bytes = std::fs::read(embedded.join(format!("{}.onnx", golden.model))).unwrap();
        let digest: String = digest(&SHA256, &bytes)
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            digest, golden.sha256,
            "{}: run tests/fixtures/golden/make.py",
            golden.model
        );
    }
}

#[test]
fn ids_and_largest_channels_equal_onnx_runtimes_except_ties() {
    let images = mosaics();
    for golden in golden() {
        let found: Vec<usize> = ours(&golden, &images).iter().map(|r| winner(r)).collect();
        assert_eq!(found.len(), IMAGES * GRID.num_patches(), "{}", golden.model);
        assert_eq!(found.len(), golden.winners.len(), "{}", golden.model);
        let ties: HashMap<usize, usize> = golden.ties.iter().copied().collect();
        // A golden file with many ties would compare nothing.
        assert!(ties.len() * 100 < found.len(), "{}", golden.model);
        for (at, (found, expected)) in found.iter().zip(&golden.winners).enumerate() {
            let tie = ties.get(&at) == Some(found);
            assert!(
                found == expected || tie,
                "{}: image {}, patch {}: found {found}, expected {expected}",
                golden.model,
                at / GRID.num_patches(),
                at % GRID.num_patches()
            );
        }
    }
}

#[test]
fn features_equal_onnx_runtimes() {
    let images = mosaics();
    let mut compared = 0;
    for golden in golden() {
        let (Some([count, patches, dim]), Some(expected)) = (golden.shape, &golden.features) else {
            continue;
        };
        let found = ours(&golden, &images)[..count * patches].concat();
        assert_eq!(found.len(), count * patches * dim, "{}", golden.model);
        let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= TOLERANCE * largest,
                "{}, value {at}: found {found}, expected {expected}",
                golden.model
            );
        }
        compared += 1;
    }
    assert_eq!(compared, 2, "the two encoders");
}
