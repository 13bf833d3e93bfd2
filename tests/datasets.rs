//! The source of images changes no number: a folder, its shards, and the decoded cache give the same bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{Bench, HEAD, RECIPE, column, error, results, write_ids};

const ROW: &str = "tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 8, epochs: 2, batch: 8}}
";

/// Returns the small suite over the images of `dataset`.
fn suite(dataset: &str) -> String {
    let drawn = "{kind: mosaics, seed: 3, train: 96, val: 40, size: 16}";
    assert!(HEAD.contains(drawn));
    format!("{}{ROW}", HEAD.replace(drawn, dataset))
}

const FOLDER: &str = "{kind: image-folder, root: images}";
const SHARDS: &str =
    "{kind: webdataset, train: \"shards/train-{00..01}.tar\", val: shards/val-00.tar}";

fn jpeg(class: u32, at: u32) -> Vec<u8> {
    let mut picture = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    let (width, height) = (24 + at % 5, 20 + at % 3);
    picture.set_size(width as usize, height as usize);
    picture.set_quality(90.0);
    let mut picture = picture.start_compress(Vec::new()).unwrap();
    let pixel = |x: u32, y: u32| {
        [
            (x * 9 + at * 31) as u8,
            (y * (7 + 4 * class)) as u8,
            at as u8,
        ]
    };
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)));
    let pixels: Vec<u8> = pixels.collect();
    picture.write_scanlines(&pixels).unwrap();
    picture.finish().unwrap()
}

/// Creates two classes as a folder of JPEGs and as shards, in which classes alternate.
fn images(bench: &Bench) {
    std::fs::create_dir_all(bench.path("shards")).unwrap();
    for (split, name, from, to) in [
        ("train", "train-00", 0, 20),
        ("train", "train-01", 20, 48),
        ("val", "val-00", 48, 68),
    ] {
        let file = std::fs::File::create(bench.path(&format!("shards/{name}.tar"))).unwrap();
        let mut shard = tar::Builder::new(file);
        let mut add = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            shard.append_data(&mut header, name, bytes).unwrap();
        };
        for at in (from..to).rev() {
            let class = ["ant", "bee"][at as usize % 2];
            let bytes = jpeg(at % 2, at);
            let folder = bench.path(&format!("images/{split}/{class}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("{at:03}.jpg")), &bytes).unwrap();
            add(format!("{class}/{at:03}.jpg"), &bytes);
            add(format!("{class}/{at:03}.cls"), class.as_bytes());
        }
        shard.finish().unwrap();
    }
}

fn same(a: &Path, b: &Path) {
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert!(read(a) == read(b), "{} and {}", a.display(), b.display());
}

/// Compares results, metrics and counts of two runs, except the columns that name the data.
fn same_runs(bench: &Bench, a: &str, b: &str) {
    let run = |name: &str, file: &str| bench.path(&format!("{name}/{file}"));
    same(&run(a, "metrics.csv"), &run(b, "metrics.csv"));
    same(
        &run(a, "cells/k-s0/counts.npy"),
        &run(b, "cells/k-s0/counts.npy"),
    );
    same(
        &run(a, "cells/k-s0/codebook.safetensors"),
        &run(b, "cells/k-s0/codebook.safetensors"),
    );
    let [left, right] = [a, b].map(|name| {
        let mut rows = results(&bench.path(name));
        for data in ["dataset", "dataset_fingerprint"] {
            let names = column(&bench.path(name), data);
            for (row, name) in rows.iter_mut().zip(names) {
                row.retain(|field| *field != name);
            }
        }
        rows
    });
    assert_eq!(left, right);
}

#[test]
fn shards_and_folder_give_the_same_bytes() {
    let bench = Bench::new(&suite(FOLDER));
    std::fs::write(bench.path("web.yaml"), suite(SHARDS)).unwrap();
    images(&bench);
    // With separate stores, the second run computes everything.
    for (suite, name) in [("suite.yaml", "folder"), ("web.yaml", "web")] {
        let store = format!("{name}-store");
        let score = ["score", suite, "--out", name, "--store", &store];
        bench.fine(&score);
        for split in ["train", "val"] {
            let out = format!("{name}-{split}.npy");
            let with = ["--only", "K", "--split", split, "--out", &out];
            let args = [&["tokenize", suite, "--store", &store], &with[..]].concat();
            bench.fine(&args);
        }
    }
    same_runs(&bench, "folder", "web");
    for file in [
        "train.npy",
        "train.labels.npy",
        "train.files.txt",
        "val.npy",
    ] {
        let path = |name: &str| bench.path(&format!("{name}-{file}"));
        same(&path("folder"), &path("web"));
    }
    let planned = bench.fine(&["score", "web.yaml", "--store", "folder-store", "--dry-run"]);
    assert!(
        planned.contains("count stored"),
        "the same images are the same stages: {planned}"
    );
}

#[test]
fn the_decoded_cache_changes_no_byte_and_is_reported() {
    let bench = Bench::new(&format!("{}{RECIPE}", suite(FOLDER)));
    images(&bench);
    bench.fine(&[
        "run",
        "suite.yaml",
        "--out",
        "plain",
        "--store",
        "plain-store",
    ]);
    let cached = ["--set", "dataset.decoded_cache=u8", "--store", "store"];
    let with = |args: &[&'static str]| [args, &cached[..]].concat();
    let planned = bench.fine(&with(&["run", "suite.yaml", "--dry-run"]));
    assert!(planned.contains("decoded to compute"), "{planned}");
    let first = || {
        let plan = bench.fine(&with(&["plan", "suite.yaml", "--json"]));
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        plan["nodes"][0].clone()
    };
    let scan = first();
    assert!(
        scan["stored"] == false && scan["cost"].is_object(),
        "{scan}"
    );
    assert!(!bench.path("store/decoded").exists());
    bench.fine(&with(&["run", "suite.yaml", "--node", "scan"]));
    assert_eq!(first()["stored"], true);
    bench.fine(&with(&["run", "suite.yaml", "--out", "cached"]));
    same_runs(&bench, "plain", "cached");
    for file in ["pretrained", "finetuned", "probe"] {
        let path = |run: &str| bench.path(&format!("{run}/cells/k-s0/{file}.safetensors"));
        same(&path("plain"), &path("cached"));
    }
    let entries = || std::fs::read_dir(bench.path("store/decoded")).unwrap();
    let entry = entries().next().unwrap().unwrap().path();
    let pixels: u32 = (0..68).map(|at| 3 * (24 + at % 5) * (20 + at % 3)).sum();
    let file = std::fs::metadata(entry.join("pixels.u8")).unwrap();
    assert_eq!(file.len(), u64::from(pixels));
    // If no stage is missing, nothing is decoded.
    std::fs::remove_dir_all(entry).unwrap();
    bench.fine(&with(&["run", "suite.yaml", "--out", "cached"]));
    assert_eq!(entries().count(), 0);
}

#[test]
fn invalid_shards_stop_before_any_work() {
    let bench = Bench::new(&suite(SHARDS));
    images(&bench);
    let shard = bench.path("shards/train-01.tar");
    let whole = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
    let score = ["score", "suite.yaml", "--out", "out"];
    bench.refused(&score, &["train-01.tar", "is truncated", "again"]);
    std::fs::write(&shard, b"\x1f\x8b\x08 and so on").unwrap();
    bench.refused(&score, &["train-01.tar", "compressed (gzip)", "gunzip"]);
    std::fs::remove_file(&shard).unwrap();
    bench.refused(&score, &["train-01.tar", "no such shard"]);
    let set = "dataset.train=shards/train-{00..tar";
    bench.refused(
        &[&score[..], &["--set", set]].concat(),
        &["suite.yaml", "dataset.train", "has no `}`"],
    );
    assert!(!bench.path("out/results.csv").exists());
}

#[test]
fn fixed_views_are_tokenized_once_for_all_seeds() {
    let recipe = RECIPE.replace("augment: random-resized-crop}", "augment: fixed-view}");
    let bench = Bench::new(&format!("{}{recipe}", suite(FOLDER)));
    images(&bench);
    let output = bench.bench(&["run", "suite.yaml", "--out", "out", "--store", "store"]);
    assert!(output.status.success(), "{}", error(&output));
    let kept = std::fs::read_dir(bench.path("store/tokens")).unwrap();
    assert_eq!(
        kept.count(),
        2,
        "originals and mirror images; two seeds share them"
    );
    let listed = bench.fine(&["store", "ls", "--store", "store"]);
    assert!(listed.contains("48 train images, mirrored"), "{listed}");
}

/// Another row that reads a larger side changes the pixels of all rows.
#[test]
fn the_side_of_fast_decoding_is_part_of_the_recipe() {
    let fast = suite("{kind: image-folder, root: images, fast_decode: true}");
    let larger = "  - {name: V, kind: onnx-ids, with: {model: absent.onnx, codebook_size: 8, input: {side: 64}}, optional: true}\n";
    let bench = Bench::new(&fast);
    images(&bench);
    std::fs::write(bench.path("two.yaml"), format!("{fast}{larger}")).unwrap();
    let hash = |file: &str, out: &str| {
        bench.fine(&["score", file, "--out", out]);
        column(&bench.path(out), "recipe_hash").remove(0)
    };
    let (one, two) = (hash("suite.yaml", "one"), hash("two.yaml", "two"));
    assert_ne!(one, two);
    let compared = bench.bench(&["compare", "one", "two"]);
    assert_eq!(compared.status.code(), Some(2));
    let said = String::from_utf8(compared.stdout).unwrap();
    assert!(said.contains("recipe_hash was"), "{said}");
}

#[test]
fn one_class_is_scored_but_has_no_accuracies() {
    let bench = Bench::new(&suite(FOLDER));
    images(&bench);
    for split in ["train", "val"] {
        let deep = bench.path("images").join(split);
        std::fs::rename(&deep, bench.path("moved")).unwrap();
        std::fs::create_dir(&deep).unwrap();
        std::fs::rename(bench.path("moved"), deep.join("all")).unwrap();
    }
    let validated = bench.fine(&["validate", "suite.yaml"]);
    let output = bench.bench(&["score", "suite.yaml"]);
    let said = error(&output);
    assert!(output.status.success(), "{said}");
    for part in ["one class, `all`", "one level up"] {
        assert!(said.contains(part) && validated.contains(part), "{said}");
    }
    let bag = ["score", "suite.yaml", "--set", "bag_of_tokens={}"];
    bench.refused(&bag, &["one class, `all`", "100 %"]);
    let bag = ["validate", "suite.yaml", "--set", "bag_of_tokens={}"];
    bench.refused(&bag, &["one class, `all`", "100 %"]);
}

/// Its paths were those of the suite, relative to another folder.
#[test]
fn the_suite_of_a_run_folder_names_the_same_files() {
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().join("there").display().to_string();
    for dataset in [FOLDER, SHARDS] {
        let row = "  - {name: F, kind: token-file, with: {train: ids.npy, codebook_size: 8}}\n";
        let bench = Bench::new(&format!("{}{row}", suite(dataset)));
        images(&bench);
        write_ids(&bench.path("ids.npy"), 48, 16, |at| at as u32 % 8);
        let score = |suite: &str, out: &str| {
            bench.fine(&["score", suite, "--out", out]);
            results(&bench.path(out))
        };
        let first = score("suite.yaml", "runs/a");
        for (from, out) in [
            ("runs/a", "runs/a"),
            ("runs/a", "b/c/d"),
            ("b/c/d", &elsewhere),
            (&elsewhere, "e"),
        ] {
            let copy = format!("{from}/suite.yaml");
            bench.fine(&["validate", &copy]);
            assert_eq!(score(&copy, out), first, "{copy}");
        }
        std::fs::remove_dir_all(&elsewhere).unwrap();
    }
}
