//! `bench speed` and `bench run --dry-run`. No test asserts a time: tests check that something was measured, the output format, and
//! values that do not depend on the machine (stages, memory, disk).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{Bench, HEAD, tell};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/suites/quickstart.yaml");

/// Creates a folder with an empty suite.
fn empty() -> Bench {
    Bench::new("")
}

/// Checks the JSON of `bench speed CASE .. --json`: every field, and a positive value.
fn assert_measures(bench: &Bench, args: &[&str], expected: [&str; 3]) {
    let said = bench.fine(&[&["speed"], args, &["--json"]].concat());
    let last = said.lines().last().unwrap();
    let measured: serde_json::Value = serde_json::from_str(last).unwrap();
    let fields = ["case", "preset", "unit"];
    let found = fields.map(|field| measured[field].as_str().unwrap());
    assert_eq!(found, expected, "{last}");
    let dtype = if args.contains(&"bf16") {
        "bf16"
    } else {
        "f32"
    };
    let place = ["device", "dtype"].map(|field| measured[field].as_str().unwrap());
    assert_eq!(place[0], "cpu", "{last}");
    assert_eq!(place[1].trim_end_matches("-emulated"), dtype, "{last}");
    let value = measured["value"].as_f64().unwrap();
    assert!(value.is_finite() && value > 0.0, "{last}");
    assert_eq!(measured.as_object().unwrap().len(), 6, "{last}");
}

/// Creates three small images of one class.
fn images(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for at in 0..3_u8 {
        let pixel = |x: u32, y: u32| image::Rgb([at, (x * 9) as u8, (y * 7) as u8]);
        let image = image::RgbImage::from_fn(20, 20, pixel);
        image.save(folder.join(format!("{at}.png"))).unwrap();
    }
}

#[test]
fn speed_without_a_case_lists_the_cases() {
    let said = empty().fine(&["speed"]);
    let found: Vec<&str> = said
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    let mut expected = vec!["pretrain", "gemm", "kmeans", "hog", "decode", "count"];
    if cfg!(feature = "onnx") {
        expected.push("tokenize");
    }
    assert_eq!(found, expected);
    for line in said.lines() {
        assert!(line.ends_with(')'), "no presets: {line}");
    }
    assert!(
        said.contains("vit-ti-32") && said.contains("8192-100"),
        "{said}"
    );
}

#[test]
fn an_unknown_case_or_preset_is_refused_with_the_known_ones() {
    let bench = empty();
    let cases = ["found case `pretrian`", "expected one of pretrain, gemm"];
    bench.refused(&["speed", "pretrian"], &cases);
    for (case, known) in [
        ("pretrain", "vit-ti-32, vit-ti-64, vit-s-224, vit-b-224"),
        ("gemm", "vit-ti-32"),
        ("kmeans", "100k-768-50, 100k-192-100"),
        ("hog", "224"),
        ("decode", "eval-224"),
        ("count", "8192-100"),
    ] {
        let args = ["speed", case, "--preset", "vit-xxl"];
        let parts = ["found preset `vit-xxl`", "expected one of", known];
        bench.refused(&args, &parts);
    }
    bench.refused(
        &["speed", "hog", "--threads", "0"],
        &["--threads 0", "expected 1 to"],
    );
}

#[test]
fn cases_with_generated_data_report_a_rate_as_json() {
    let bench = empty();
    let images = "images/s";
    assert_measures(&bench, &["count"], ["count", "8192-100", "patches/s"]);
    let small = ["count", "--preset", "50-10"];
    assert_measures(&bench, &small, ["count", "50-10", "patches/s"]);
    assert_measures(&bench, &["hog", "--threads", "1"], ["hog", "224", images]);
    for (case, batch) in [("pretrain", "4"), ("gemm", "16")] {
        let args = [
            case,
            "--preset",
            "vit-ti-32",
            "--batch",
            batch,
            "--threads",
            "1",
        ];
        assert_measures(&bench, &args, [case, "vit-ti-32", images]);
        let args = [&args[..], &["--precision", "bf16"]].concat();
        assert_measures(&bench, &args, [case, "vit-ti-32", images]);
    }
    let short = ["speed", "count", "--precision", "bf16"];
    bench.refused(
        &short,
        &["`count`", "only pretrain and its gemm accept --precision"],
    );
    for args in [
        &["speed", "kmeans", "--batch", "8"][..],
        &["speed", "gemm", "--preset", "100k-768-50", "--batch", "8"],
        &["speed", "pretrain", "--data", "images"],
        &["speed", "hog", "--residual-stream", "f32"],
        &["speed", "pretrain", "--residual-stream", "bf16"],
    ] {
        bench.refused(args, &["found --", "leave it out"]);
    }
    let cuda = ["speed", "pretrain", "--device", "cuda"];
    bench.refused(&cuda, &["--device cuda", "--device cpu"]);
}

#[test]
fn a_ledger_counts_a_step_without_a_gpu() {
    let bench = empty();
    let args = [
        "speed",
        "pretrain",
        "--preset",
        "vit-ti-32",
        "--batch",
        "64",
        "--ledger",
    ];
    let said = bench.fine(&args);
    let of = |name: &str| {
        said.lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned)
    };
    for row in [
        "matmul Weight",
        "attention_forward",
        "adamw_rounded",
        "64 images in one part",
    ] {
        assert!(of(row).is_some(), "{row}: {said}");
    }
    assert!(
        of("predicted, not measured, without copies from the host: H100").is_some(),
        "{said}"
    );
    // The step that BENCHMARKS.md predicts.
    let large = ["--preset", "vit-s-224", "--batch", "4096", "--ledger"];
    let large = bench.fine(&[&["speed", "pretrain"], &large[..]].concat());
    let last: Vec<&str> = large.lines().rev().take(2).collect();
    assert!(
        last[1].contains("573 launches") && last[0].starts_with("predicted"),
        "{large}"
    );
    tell(&format!("ViT-S/16, 224 px, {}; {}", last[1], last[0]));
    let json: serde_json::Value =
        serde_json::from_str(&bench.fine(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["images"], 64);
    let rows = json["rows"].as_array().unwrap();
    let wait = rows.iter().find(|row| row["operation"] == "wait");
    assert_eq!(wait.unwrap()["calls"], 1);
    bench.refused(
        &["speed", "hog", "--ledger"],
        &["`hog`", "expected pretrain"],
    );
    let both = [&args[..], &["--precision", "f32"]].concat();
    bench.refused(&both, &["--ledger", "--precision"]);
    // On a GPU, the calls of a real step are counted.
    let cuda = [&args[..], &["--device", "cuda"]].concat();
    bench.refused(&cuda, &["--device cuda", "--device cpu"]);
    assert_eq!(
        bench.fine(&[&args[..], &["--device", "auto"]].concat()),
        said
    );
}

#[test]
fn speed_as_text_is_a_line_with_the_unit() {
    let said = empty().fine(&["speed", "hog", "--threads", "1"]);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!([words[0], words[1], words[3]], ["hog", "224", "images/s"]);
    assert!(words[2].parse::<f64>().unwrap() > 0.0, "{said}");
}

/// A graph without a manifest does not say how many codes it has.
#[cfg(feature = "onnx")]
#[test]
fn tokenize_measures_a_graph_of_ids_without_a_manifest() {
    use common::onnx::{INT64, argmax, encoder};
    let bench = empty();
    let graph = argmax(encoder()).output("ids", INT64, &[-1, 4, 4]).file();
    std::fs::write(bench.path("m.onnx"), graph).unwrap();
    images(&bench.path("data/train/ant"));
    images(&bench.path("data/val/ant"));
    let args = ["tokenize", "--preset", "m.onnx", "--data", "data"];
    assert_measures(&bench, &args, ["tokenize", "m.onnx", "images/s"]);
}

#[test]
fn decode_requires_a_folder_of_images() {
    let bench = empty();
    let needed = ["expected --data DIR", "folder"];
    bench.refused(&["speed", "decode"], &needed);
    if cfg!(feature = "onnx") {
        bench.refused(&["speed", "tokenize"], &needed);
    }
    bench.refused(&["speed", "decode", "--data", "nowhere"], &["nowhere"]);
    std::fs::create_dir(bench.path("data")).unwrap();
    let args = ["speed", "decode", "--data", "data"];
    bench.refused(&args, &["data", "found no images", "class folders"]);
    images(&bench.path("data/ant"));
    assert_measures(&bench, &args[1..], ["decode", "eval-224", "images/s"]);
}

/// The estimate of `--dry-run` for one row, or for one row and seed.
#[derive(Debug, PartialEq)]
struct RowEstimate {
    name: String,
    /// Stages and their states, without durations.
    stages: Vec<String>,
    /// Megabytes of memory and disk; `None` if there is nothing to compute.
    amount: Option<[f64; 2]>,
}

/// Parses the estimates of the rows, and memory and disk of the whole run.
fn parse_estimates(said: &str) -> (Vec<RowEstimate>, [f64; 2]) {
    let mut rows: Vec<RowEstimate> = Vec::new();
    let mut lines: Vec<&str> = said.lines().collect();
    let whole = lines.pop().unwrap();
    let sure = lines
        .pop()
        .filter(|line| line.starts_with("memory and disk were within"));
    assert!(sure.is_some(), "{said}");
    // Each kind of stage in all, and what limits those that train.
    let of_stages = ["all of ", "pretrain: model ", "finetune: model "];
    lines.retain(|line| !of_stages.iter().any(|start| line.starts_with(start)));
    for line in lines {
        if let Some(all) = line.trim_start().strip_prefix("in all ") {
            let row = rows.last_mut().unwrap();
            assert_eq!(row.amount, None, "{line}");
            row.amount = Some(amount(all));
            continue;
        }
        // Names may contain commas. They are padded to 40 columns.
        let (name, stages) = line.split_at(40);
        rows.push(RowEstimate {
            name: name.trim_end().to_owned(),
            stages: stages.split(", ").map(stage).collect(),
            amount: None,
        });
    }
    assert!(whole.starts_with("estimate of the whole run"), "{whole}");
    (rows, amount(whole.rsplit_once(": ").unwrap().1))
}

fn stage(said: &str) -> String {
    let said = said.trim();
    let Some((name, seconds)) = said.split_once(" to compute (") else {
        assert!(said.ends_with(" stored"), "{said}");
        return said.to_owned();
    };
    assert_duration(seconds.strip_suffix(')').unwrap());
    format!("{name} to compute")
}

/// Parses megabytes of memory and disk.
fn amount(said: &str) -> [f64; 2] {
    let parts: Vec<&str> = said.split(", ").collect();
    assert_eq!(parts.len(), 3, "{said}");
    assert_duration(parts[0]);
    let megabytes = |part: &str, of: &str| part.strip_suffix(of).unwrap().parse().unwrap();
    [
        megabytes(parts[1], " MB of memory"),
        megabytes(parts[2], " MB of disk"),
    ]
}

/// Checks a duration such as `1.0 s`, `3 min 05 s` or `2 h 10 min`: alternating numbers and units.
fn assert_duration(said: &str) {
    let words: Vec<&str> = said.split(' ').collect();
    let (pairs, rest) = words.as_chunks::<2>();
    assert!(!pairs.is_empty() && rest.is_empty(), "{said}");
    for [number, unit] in pairs {
        assert!(number.parse::<f64>().unwrap() >= 0.0, "{said}");
        assert!(["s", "min", "h"].contains(unit), "{said}");
    }
}

const DRY: &[&str] = &["run", QUICKSTART, "--dry-run", "--store", "store"];

#[test]
fn a_dry_run_estimates_every_stage_and_writes_no_run() {
    let bench = empty();
    let (rows, [memory, disk]) = parse_estimates(&bench.fine(DRY));
    assert!(!bench.path("runs").exists());
    for row in &rows {
        let computed = row.stages.iter().all(|s| s.ends_with(" to compute"));
        assert!(computed, "nothing is stored yet: {row:?}");
        let [memory, disk] = row.amount.unwrap();
        assert!(memory > 0.0 && disk > 0.0, "{row:?}");
    }
    let stages = |name: &str| {
        let row = rows.iter().find(|row| row.name == name).unwrap();
        let names = row.stages.iter().map(|s| s.split(' ').next().unwrap());
        names.collect::<Vec<&str>>()
    };
    let trained = ["pretrain", "knn", "probe", "attentive", "finetune"];
    let random = [&["random"], &trained[1..]].concat();
    assert_eq!(stages("No pretraining, seed 0"), random);
    assert_eq!(stages("Maskfeat (HOG targets), seed 0"), trained);
    assert_eq!(stages("K-means Pixel, K=50, seed 0"), trained);
    let scored = ["fit", "count", "metrics", "gallery", "bag"];
    assert_eq!(stages("K-means Pixel, K=50"), scored);
    // Rows run one after another: memory is the maximum, disk the sum. Each is rounded to a tenth.
    let amounts: Vec<[f64; 2]> = rows.iter().filter_map(|row| row.amount).collect();
    let largest = amounts.iter().map(|a| a[0]).fold(0.0, f64::max);
    assert_eq!(memory, largest);
    let sum: f64 = amounts.iter().map(|a| a[1]).sum();
    let rounding = 0.05 * (amounts.len() + 1) as f64;
    assert!((disk - sum).abs() <= rounding, "{disk}, {sum}");
}

#[test]
fn stored_stages_cost_nothing_in_a_dry_run() {
    let bench = empty();
    let name = "K-means Pixel, K=50";
    let dry = || parse_estimates(&bench.fine(&[DRY, &["--only", name]].concat()));
    let before = dry();
    let stages = |rows: &[RowEstimate]| rows.iter().flat_map(|row| row.stages.clone()).collect();
    let [again, first]: [Vec<String>; 2] = [&dry().0[..], &before.0].map(stages);
    assert_eq!(again, first, "a dry run stores no stage");
    let score = ["score", QUICKSTART, "--only", name];
    bench.fine(&[&score[..], &["--store", "store", "--out", "scored"]].concat());
    let (rows, [_, disk]) = dry();
    let (old, [_, old_disk]) = before;
    // The row, its seed, and the report.
    assert_eq!([rows.len(), old.len()], [3, 3]);
    assert_eq!(rows[0].name, name);
    let stored =
        ["fit", "count", "metrics", "gallery", "bag"].map(|stage| format!("{stage} stored"));
    assert_eq!(rows[0].stages, stored);
    assert_eq!(rows[0].amount, None, "nothing to compute");
    let training = |rows: &[RowEstimate]| (rows[1].stages.clone(), rows[1].amount.map(|a| a[1]));
    assert_eq!(
        training(&rows),
        training(&old),
        "the cost of training is unchanged"
    );
    assert!(disk < old_disk, "{disk}, {old_disk}");
}

/// A measurement has no state to keep, so a signal ends it immediately.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_measurement() {
    use std::os::unix::process::ExitStatusExt as _;
    let bench = empty();
    let mut command = bench.command(&["speed", "pretrain", "--preset", "vit-s-224"]);
    let mut child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(15), "{status}");
}

/// Bytes of all files in a folder.
fn bytes(folder: &Path) -> f64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let each = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => bytes(&entry.path()),
        false => entry.metadata().unwrap().len() as f64,
    });
    each.sum()
}

/// The promise of `--dry-run`. Seconds are not compared, because they depend on what else runs on the machine.
#[test]
fn estimated_memory_and_disk_are_within_30_percent_of_a_run() {
    let bench = Bench::whole();
    let (_, [memory, disk]) = parse_estimates(&bench.fine(&["run", "suite.yaml", "--dry-run"]));
    bench.fine(&["run", "suite.yaml", "--out", "out"]);
    // Without the scan, which a dry run stores too.
    let store = bench.path("runs/.store");
    let found = bytes(&store) - bytes(&store.join("scan")) + bytes(&bench.path("out"));
    let found = found / 1e6;
    assert!(
        (0.7..1.3).contains(&(disk / found)),
        "disk {disk}, found {found}"
    );
    let Some(peak) = peak(&bench.path("out")) else {
        return common::skipped("this system does not report the peak memory");
    };
    assert!(
        (0.7..1.3).contains(&(memory / peak)),
        "memory {memory}, found {peak}"
    );
}

/// Largest memory of a stage of the run in `out`, megabytes; `None` if the system does not report it.
fn peak(out: &Path) -> Option<f64> {
    let mut costs = csv::Reader::from_path(out.join("costs.csv")).unwrap();
    let names = costs.headers().unwrap().clone();
    let at = names.iter().position(|name| name == "peak_mib").unwrap();
    let peaks = costs
        .records()
        .filter_map(|row| row.unwrap()[at].parse::<f64>().ok());
    let peak = peaks.fold(0.0, f64::max) * f64::from(1 << 20) / 1e6;
    (peak > 0.0).then_some(peak)
}

/// Threads that tokenize hold 32 decoded images each. They were not counted: 327 MB were estimated, and 540 MB needed.
#[test]
fn decoded_images_are_part_of_the_estimated_memory() {
    for cached in ["", ", decoded_cache: u8"] {
        let dataset = format!("{{kind: image-folder, root: images{cached}}}");
        let head = HEAD.replace(
            "{kind: mosaics, seed: 3, train: 96, val: 40, size: 16}",
            &dataset,
        );
        let row = "tokenizers: [{name: K, kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 1}}]\n";
        let bench = Bench::new(&format!("{head}fit_seeds: [0]\n{row}"));
        let first = bench.path("first.png");
        let pixel = |x: u32, y: u32| image::Rgb([x as u8, y as u8, 7]);
        image::RgbImage::from_fn(1200, 1200, pixel)
            .save(&first)
            .unwrap();
        for (split, images) in [("train", 40), ("val", 1)] {
            for class in ["ant", "bee"] {
                let folder = bench.path(&format!("images/{split}/{class}"));
                std::fs::create_dir_all(&folder).unwrap();
                for at in 0..images {
                    std::fs::copy(&first, folder.join(format!("{at}.png"))).unwrap();
                }
            }
        }
        let score = ["score", "suite.yaml", "--threads", "2"];
        let said = bench.fine(&[&score[..], &["--dry-run"]].concat());
        let (_, [memory, _]) = parse_estimates(&said);
        bench.fine(&[&score[..], &["--out", "out"]].concat());
        let Some(peak) = peak(&bench.path("out")) else {
            return common::skipped("this system does not report the peak memory");
        };
        assert!(
            (0.7..1.3).contains(&(memory / peak)),
            "{dataset}: memory {memory}, found {peak}"
        );
    }
}
