//! `--json` of `validate`, `runs`, `doctor` and `run --dry-run`: one document on standard output with the facts of the text.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, HEAD, RECIPE, ROWS, error, write_ids};
use serde_json::{Value, json};

/// Runs `bench ARGS --json`, and returns its exit status and document.
fn document(bench: &Bench, args: &[&str]) -> (Option<i32>, Value) {
    let output = bench.bench(&[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let found = serde_json::from_str(&text);
    let found = found.unwrap_or_else(|e| panic!("{args:?}: {e} in {text}; {}", error(&output)));
    (output.status.code(), found)
}

/// Returns the values of a field in a list of objects.
fn all<'a>(list: &'a Value, field: &str) -> Vec<&'a Value> {
    let list = list.as_array().unwrap();
    list.iter().map(|item| &item[field]).collect()
}

fn sum(list: Vec<&Value>) -> f64 {
    list.iter().filter_map(|value| value.as_f64()).sum()
}

#[test]
fn validate_describes_rows_and_images() {
    let bench = Bench::whole();
    let (status, found) = document(&bench, &["validate", "suite.yaml"]);
    assert_eq!(status, Some(0));
    assert_eq!(found["valid"], true);
    assert_eq!(found["suite"], "tiny");
    assert_eq!(found["seeds"], json!([0, 1]));
    assert_eq!(found["left_out"], json!({"images": [], "others": []}));
    let names = [
        "No pretraining",
        "Identity",
        "K-means Pixel, K=4",
        "K-means Pixel, K=8",
    ];
    assert_eq!(all(&found["rows"], "name"), names);
    assert_eq!(all(&found["rows"], "kind")[3], "kmeans");
    assert_eq!(all(&found["rows"], "targets_checked"), [true; 4]);
    let (_, found) = document(&bench, &["validate", "suite.yaml", "--resolved"]);
    assert_eq!(found["tokenizers"][2]["with"]["k"], 8);
}

#[test]
fn validate_names_images_and_what_is_not_checked() {
    let row = "{name: Mine, kind: command, with: {command: [sh, mine.sh], codebook_size: 4}}";
    let bench = Bench::new(&format!("{HEAD}tokenizers: [{row}]\n"));
    for split in ["train", "val"] {
        let folder = bench.path("images").join(split).join("a");
        std::fs::create_dir_all(&folder).unwrap();
        let image = image::RgbImage::new(16, 16);
        image.save(folder.join("x.png")).unwrap();
        std::fs::write(folder.join("notes.txt"), "none").unwrap();
    }
    let set = "dataset={kind: image-folder, root: images}";
    let (status, found) = document(&bench, &["validate", "suite.yaml", "--set", set]);
    assert_eq!(status, Some(0), "{found}");
    assert_eq!(found["images"], json!({"train": 1, "val": 1}));
    assert_eq!(found["left_out"]["others"][0]["count"], 2, "{found}");
    assert_eq!(found["rows"][0]["targets_checked"], false);
}

#[test]
fn validate_gives_the_place_of_an_error() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}{RECIPE}").replace(
        "epochs: 2, batch: 32}, sweep",
        "epohcs: 2, batch: 32}, sweep",
    ));
    let (status, found) = document(&bench, &["validate", "suite.yaml"]);
    assert_eq!(status, Some(2));
    assert_eq!(found["valid"], false);
    let error = &found["error"];
    assert_eq!(error["file"], "suite.yaml");
    assert_eq!(error["line"], 11);
    assert_eq!(error["field"], "tokenizers[1].with.epohcs");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("did you mean `epochs`?"), "{message}");
    bench.refused(&["validate", "suite.yaml", "--json"], &[message]);
    let (status, found) = document(&bench, &["validate", "absent.yaml"]);
    assert_eq!((status, &found["error"]["line"]), (Some(2), &Value::Null));
}

#[test]
fn a_dry_run_adds_up() {
    let bench = Bench::whole();
    let (status, found) = document(&bench, &["run", "suite.yaml", "--dry-run"]);
    assert_eq!(status, Some(0));
    assert_eq!(found["suite"], "tiny");
    let rows = found["rows"].as_array().unwrap();
    for cost in ["seconds", "disk_bytes"] {
        let of = |list: &Value| {
            all(list, "cost")
                .iter()
                .filter_map(|c| c[cost].as_f64())
                .sum()
        };
        let (by_row, by_stage): (f64, f64) = (of(&found["rows"]), of(&found["stages"]));
        let stages: f64 = rows.iter().map(|row| of(&row["stages"])).sum();
        let whole = found["cost"][cost].as_f64().unwrap();
        for part in [by_row, by_stage, stages] {
            assert!(
                (part - whole).abs() <= 1e-9 * whole,
                "{cost}: {part}, {whole}"
            );
        }
    }
    let stages: Vec<&Value> = rows
        .iter()
        .flat_map(|row| all(&row["stages"], "stage"))
        .collect();
    assert_eq!(sum(all(&found["stages"], "count")), stages.len() as f64);
    assert!(stages.contains(&&json!("pretrain")), "{stages:?}");
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    let seed = of("K-means Pixel, K=4, seed 1");
    assert_eq!(
        (&seed["row"], &seed["seed"]),
        (&json!("K-means Pixel, K=4"), &json!(1))
    );
    let fit = of("K-means Pixel, K=4");
    assert_eq!(
        (&fit["row"], &fit["seed"]),
        (&json!("K-means Pixel, K=4"), &Value::Null)
    );
    let extra = of("tables, figures and page");
    assert_eq!(
        (&extra["row"], &extra["seed"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(found["guessed"], json!([]));
    // A stored stage costs nothing.
    bench.fine(&["score", "suite.yaml"]);
    let (_, found) = document(&bench, &["score", "suite.yaml", "--dry-run"]);
    let fits: Vec<&Value> = found["rows"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row["stages"].as_array().unwrap())
        .filter(|stage| stage["stage"] == "fit")
        .collect();
    assert!(!fits.is_empty());
    for stage in fits {
        assert_eq!(
            (&stage["stored"], &stage["cost"]),
            (&json!(true), &Value::Null)
        );
    }
    bench.refused(&["run", "suite.yaml", "--json"], &["--dry-run"]);
}

#[test]
fn runs_are_counted_by_state() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--out", "runs/scored"]);
    std::fs::create_dir_all(bench.path("runs/broken")).unwrap();
    std::fs::write(bench.path("runs/broken/results.csv"), "not,a,run\n1\n").unwrap();
    let args = ["submit", "suite.yaml", "--to", "slurm", "--dry-run"];
    bench.fine(&[&args[..], &["--out", "runs/planned"]].concat());
    std::fs::create_dir_all(bench.path("runs/begun/submit/nodes")).unwrap();
    // A run whose files cannot be opened was left out.
    std::fs::create_dir_all(bench.path("runs/locked")).unwrap();
    std::os::unix::fs::symlink("results.csv", bench.path("runs/locked/results.csv")).unwrap();
    let (status, found) = document(&bench, &["runs"]);
    assert_eq!(status, Some(0));
    let run = |name: &str| {
        let runs = found["runs"].as_array().unwrap();
        let folder = json!(format!("runs/{name}"));
        runs.iter().find(|run| run["folder"] == folder).unwrap()
    };
    let scored = run("scored");
    assert_eq!(scored["suite"], "tiny");
    let cells = scored["cells"].as_u64().unwrap();
    let by_status = scored["cells_by_status"].as_object().unwrap();
    assert_eq!(
        by_status.values().filter_map(Value::as_u64).sum::<u64>(),
        cells
    );
    assert!(cells > 0 && scored["seconds_since_change"].as_f64().unwrap() >= 0.0);
    let word = scored["state"].as_str().unwrap();
    let text = bench.fine(&["runs", "runs/scored"]);
    assert!(text.contains(&format!("ago  {word}")), "{text}");
    assert_eq!(run("broken")["state"], "unreadable");
    assert_eq!(run("locked")["state"], "unreadable");
    bench.refused(&["runs", "runs/locked"], &["runs/locked: cannot be read"]);
    assert!(
        run("broken")["error"]
            .as_str()
            .unwrap()
            .contains("results.csv")
    );
    let names = |run: &Value| Vec::from_iter(run.as_object().unwrap().keys().cloned());
    assert_eq!(names(run("broken")), names(scored));
    assert_eq!(run("broken")["cells"], Value::Null);
    assert_eq!(run("begun")["state"], "stopped", "without results");
    let planned = run("planned");
    assert_eq!(planned["state"], "planned");
    assert_eq!(planned["submitted"]["scheduler"], Value::Null);
    let (_, alone) = document(&bench, &["runs", "runs/planned"]);
    let nodes = &alone["runs"][0]["nodes"];
    let states = planned["submitted"]["nodes_by_state"].as_object().unwrap();
    assert_eq!(
        states.values().filter_map(Value::as_u64).sum::<u64>(),
        nodes.as_array().unwrap().len() as u64
    );
    assert_eq!(nodes[0]["id"], "scan");
    let (_, alone) = document(&bench, &["runs", "runs/scored"]);
    assert_eq!(alone["runs"][0]["nodes"], Value::Null);
    bench.refused(&["runs", "absent", "--json"], &["absent"]);
}

#[test]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let bench = Bench::whole();
    let named = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let (suite, folder) = (named(b"suite\xff.yaml"), named(b"runs\xff"));
    std::fs::copy(bench.path("suite.yaml"), bench.dir.path().join(&suite)).unwrap();
    for run in [&b"broken\xff"[..], b"empty\xff"] {
        let run = bench.dir.path().join(&folder).join(named(run));
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("results.csv"), "not,a,run\n1\n").unwrap();
    }
    for (args, wrong) in [
        (vec![named(b"validate"), suite.clone()], false),
        (
            vec![
                named(b"validate"),
                suite,
                named(b"--set"),
                named(b"seeds=x"),
            ],
            true,
        ),
        (vec![named(b"runs"), folder], false),
        (
            vec![named(b"doctor"), named(b"--store"), named(b"store\xff")],
            false,
        ),
    ] {
        let mut command = bench.command(&[]);
        let output = command.args(&args).arg("--json").output().unwrap();
        let status = if wrong { 2 } else { 0 };
        assert_eq!(
            output.status.code(),
            Some(status),
            "{args:?}: {}",
            error(&output)
        );
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
    }
}

#[test]
fn doctor_has_numbers_beside_the_text() {
    let bench = Bench::whole();
    let (status, found) = document(&bench, &["doctor", "--store", "store", "--data", "."]);
    assert_eq!(status, Some(0));
    assert!(found["threads"].as_u64().unwrap() >= 1);
    assert!(found["free_disk_bytes"].as_u64().is_some());
    assert!(found["gpu"].is_null() || found["gpu"].is_string());
    assert_eq!(found["store"]["folder"], "store");
    for (group, field) in [
        ("store", "file_system"),
        ("store", "tried_now"),
        ("data", "scan"),
    ] {
        assert!(
            found[group][field].is_string(),
            "{group}.{field} in {found}"
        );
    }
    let text = bench.fine(&["doctor", "--store", "store", "--data", "."]);
    for name in ["tessera", "instructions", "keys", "cuda", "onnx"] {
        let said = found[name].as_str().unwrap();
        assert!(text.contains(said), "{name}: {said}");
    }
}

/// Its costs were guesses, and the memory of its bag that of equally frequent codes.
#[test]
fn a_dry_run_measures_the_codes_of_a_token_file() {
    let row = "tokenizers: [{name: F, kind: token-file, with: {train: ids.npy, val: val.npy, codebook_size: 1000000}}]\nbag_of_tokens: {}\n";
    let head = HEAD.replace("train: 96", "train: 4096");
    let bench = Bench::new(&format!("{head}{row}"));
    write_ids(&bench.path("val.npy"), 40, 16, |_| 0);
    let memory = |id: &dyn Fn(usize) -> u32| {
        write_ids(&bench.path("ids.npy"), 4096, 16, id);
        let (_, plan) = document(&bench, &["score", "suite.yaml", "--dry-run"]);
        assert_eq!(plan["guessed"], json!([]), "{plan}");
        let stages = plan["rows"][0]["stages"].as_array().unwrap();
        let bag = stages.iter().find(|stage| stage["stage"] == "bag");
        bag.unwrap()["cost"]["memory_bytes"].as_f64().unwrap()
    };
    let (all, few) = (memory(&|at| 15 * at as u32), memory(&|at| at as u32 % 512));
    // Ten classes, 18 vectors of f64: 1440 bytes per code.
    assert!(all - few > 50_000.0 * 1440.0, "{all} {few}");
}

/// It was that of codes that are all used and all say something about the classes.
#[test]
fn the_memory_of_a_bag_of_unknown_codes_is_that_of_equally_frequent_ones() {
    let head = HEAD.replace("train: 96", "train: 4096");
    let memory = |codes: usize| {
        let fields = format!("command: [sh, -c, exit], codebook_size: {codes}");
        let row = format!("{{name: P, kind: command, with: {{{fields}}}}}");
        let bench = Bench::new(&format!("{head}tokenizers: [{row}]\nbag_of_tokens: {{}}\n"));
        let (_, plan) = document(&bench, &["score", "suite.yaml", "--dry-run"]);
        let stages = plan["rows"][0]["stages"].as_array().unwrap();
        let bag = stages.iter().find(|stage| stage["stage"] == "bag");
        bag.unwrap()["cost"]["memory_bytes"].as_f64().unwrap()
    };
    // 63,450 of a million codes are used by 65,536 patches. Ten classes, 8 vectors of f64, and a column per code.
    let (many, one) = (memory(1_000_000), memory(1));
    assert!(many - one < 63_450.0 * 80.0 * 12.0, "{many} {one}");
}

/// `\u{202a}` is no escape of JSON. Windows puts the character before copied paths.
#[test]
fn documents_with_names_that_command_a_terminal_are_json() {
    let bench = Bench::new(HEAD);
    let name = "a\u{202a}b\u{85}";
    let run = bench.path("runs").join(name);
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("results.csv"), "no run").unwrap();
    let (_, runs) = document(&bench, &["runs"]);
    assert!(runs.to_string().contains(name), "{runs}");
    let said = bench.bench(&["runs", "--json"]).stdout;
    assert!(!String::from_utf8(said).unwrap().contains('\u{202a}'));
}
