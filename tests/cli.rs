//! The command line: output, files and exit status of each verb.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, HEAD, RECIPE, ROWS, column, error};

#[test]
fn run_writes_all_files_of_the_contract() {
    let bench = Bench::whole();
    let said = bench.fine(&["run", "suite.yaml"]);
    assert!(
        said.contains("No pretraining") && said.contains("K-means Pixel,"),
        "{said}"
    );
    let run = bench.path("runs/tiny");
    let names = column(&run, "tokenizer");
    let expected = [
        "No pretraining",
        "Identity",
        "K-means Pixel, K=4",
        "K-means Pixel, K=8",
    ];
    let twice: Vec<&str> = expected.iter().flat_map(|name| [*name, *name]).collect();
    assert_eq!(names, twice, "rows in the suite's order, one per seed");
    for name in ["knn_top1", "lp_top1", "lp_top5", "ft_top1", "ft_top5"] {
        for value in column(&run, name) {
            let value: f64 = value.parse().unwrap();
            assert!((0.0..=100.0).contains(&value), "{name} {value}");
        }
    }
    let filled = |name: &str| {
        column(&run, name)
            .iter()
            .map(|v| !v.is_empty())
            .collect::<Vec<_>>()
    };
    let discrete = [false, false, false, false, true, true, true, true];
    assert_eq!(filled("tcas"), discrete);
    assert_eq!(filled("tcas_null"), discrete);
    assert_eq!(
        filled("pretrain_loss"),
        [false, false, true, true, true, true, true, true]
    );
    for file in [
        "metrics.csv",
        "comparisons.csv",
        "costs.csv",
        "classes.json",
        "report.html",
        "figures/curves-pretrain.svg",
        "figures/curves-probe.png",
        "figures/classes-lp.svg",
        "labels-val.npy",
        "suite.yaml",
        "environment.json",
        "tables/table1.md",
        "tables/table1.tex",
        "tables/table2.csv",
        "tables/table7.csv",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let cell = run.join("cells/k-means-pixel-k-4-s1");
    for file in [
        "counts.npy",
        "gallery.png",
        "maps.png",
        "gallery.json",
        "codebook.png",
        "codebook.safetensors",
        "pretrained.safetensors",
        "encoder.safetensors",
        "probe.safetensors",
        "finetuned.safetensors",
        "predictions-probe.npy",
        "predictions-finetune.npy",
        "history.csv",
        "events.out.tfevents.0.tessera",
    ] {
        assert!(cell.join(file).is_file(), "{file}");
    }
    let history = std::fs::read_to_string(cell.join("history.csv")).unwrap();
    assert_eq!(
        history.lines().count(),
        1 + 3 + 5 + 2,
        "one line per epoch of each stage"
    );
}

/// Models computed in bf16 give other numbers under other keys. Tokenizers give the same numbers.
#[test]
fn the_precision_is_part_of_the_key_of_model_stages() {
    let bench = Bench::whole();
    bench.fine(&["run", "suite.yaml", "--out", "long"]);
    let short = ["run", "suite.yaml", "--out", "short", "--precision", "bf16"];
    let said = bench.fine(&short);
    assert!(said.contains("K-means Pixel,"), "{said}");
    let both = |name| ["long", "short"].map(|run| column(&bench.path(run), name));
    let [long, short] = both("dtype");
    let is_bf16 = |v: &String| v.trim_end_matches("-emulated") == "bf16";
    assert!(long.iter().all(|v| v == "f32") && short.iter().all(is_bf16));
    assert!(both("device").iter().flatten().all(|v| v == "cpu"));
    let [long, short] = both("tcas");
    assert_eq!(long, short);
    let [long, short] = both("pretrain_loss");
    for (long, short) in long.iter().zip(&short).filter(|(v, _)| !v.is_empty()) {
        let [l, s] = [long, short].map(|v| v.parse::<f64>().unwrap());
        assert!(l != s && (l - s).abs() < 0.02 * l, "{long} {short}");
    }
    // The suite can set the precision, too; the option overrides it.
    let set = ["run", "suite.yaml", "--set", "precision=bf16", "--dry-run"];
    let long = [
        "run",
        "suite.yaml",
        "--set",
        "precision=bf16",
        "--precision",
        "f32",
        "--dry-run",
    ];
    for args in [&set[..], &long[..]] {
        let said = bench.fine(args);
        assert!(!said.contains("to compute"), "{said}");
    }
    let half = ["run", "suite.yaml", "--set", "precision=half"];
    bench.refused(&half, &["precision", "half", "bf16"]);
}

#[test]
fn rows_are_compared_on_the_same_images() {
    let bench = Bench::whole();
    bench.fine(&["run", "suite.yaml"]);
    let run = bench.path("runs/tiny");
    let [names, seeds, knn, lp, ft] =
        ["tokenizer", "seed", "knn_top1", "lp_top1", "ft_top1"].map(|name| column(&run, name));
    let accuracy = |name: &str, seed: &str, evaluation: &str| -> f64 {
        let at = (0..names.len()).find(|at| names[*at] == name && seeds[*at] == seed);
        let column = match evaluation {
            "knn" => &knn,
            "lp" => &lp,
            _ => &ft,
        };
        column[at.unwrap()].parse().unwrap()
    };
    let mut reader = csv::Reader::from_path(run.join("comparisons.csv")).unwrap();
    let rows: Vec<tessera_reports::Comparison> =
        reader.deserialize().map(|row| row.unwrap()).collect();
    // Three rows against the identity row: two seeds each, and both seeds together, for k-NN, LP and FT.
    assert_eq!(rows.len(), 3 * 3 * 3);
    for row in rows {
        assert_eq!((row.baseline.as_str(), row.n_val), ("Identity", 40));
        let difference = |seed: &str| {
            let of = |name: &str| accuracy(name, seed, &row.evaluation);
            of(&row.tokenizer) - of(&row.baseline)
        };
        let expected = match row.seed {
            Some(seed) => difference(&seed.to_string()),
            None => (difference("0") + difference("1")) / 2.0,
        };
        assert!((row.difference - expected).abs() < 1e-9, "{row:?}");
        assert!(
            row.p > 0.0 && row.p <= row.p_holm && row.p_holm <= 1.0,
            "{row:?}"
        );
    }
}

/// Returns a CSV file with 0.99 in a column of the rows that `is` chooses, where it is not empty.
fn with_column(text: &str, column: &str, is: impl Fn(&csv::StringRecord) -> bool) -> Vec<u8> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = reader.headers().unwrap().clone();
    writer.write_record(&header).unwrap();
    for row in reader.records().map(Result::unwrap) {
        let cells = header.iter().zip(&row);
        let changed = cells.map(|(name, field)| {
            let changes = name == column && is(&row) && !field.is_empty();
            if changes { "0.99" } else { field }
        });
        writer.write_record(changed).unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn a_worse_run_is_a_regression_and_another_suite_is_refused() {
    let bench = Bench::whole();
    let run = |out: &str, more: &[&str]| {
        let arguments = ["run", "suite.yaml", "--set", "fine_tune=null", "--out", out];
        bench.fine(&[&arguments[..], more].concat());
    };
    run("old", &[]);
    let said = bench.fine(&["compare", "old", "old"]);
    assert!(said.contains("no regression"), "{said}");
    // Write a result that is worse, as a regression would.
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    let results = with_column(&read("old/results.csv"), "tcas", |_| true);
    let is_tcas = |row: &csv::StringRecord| row.iter().any(|field| field == "tcas");
    let metrics = with_column(&read("old/metrics.csv"), "value", is_tcas);
    std::fs::create_dir(bench.path("new")).unwrap();
    std::fs::write(bench.path("new/results.csv"), results).unwrap();
    bench.refused(
        &["compare", "old", "new/results.csv"],
        &["tcas of K-means Pixel, K=4", "--tolerance"],
    );
    std::fs::write(bench.path("new/metrics.csv"), metrics).unwrap();
    let output = bench.bench(&["compare", "old", "new", "--markdown", "new.md"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let markdown = std::fs::read_to_string(bench.path("new.md")).unwrap();
    assert!(
        markdown.contains("bench compare: regression") && markdown.contains("WORSE"),
        "{markdown}"
    );
    bench.fine(&["compare", "old", "new", "--gate", "lp_top1"]);
    bench.refused(
        &["compare", "old", "new", "--gate", "lp_top"],
        &["did you mean `lp_top1`?"],
    );
    run(
        "other",
        &["--set", "linear_probe.epochs=2", "--only", "Identity"],
    );
    bench.refused(
        &["compare", "old", "other"],
        &["differ in the fields above", "--force"],
    );
}

#[test]
fn runs_are_listed_with_their_state() {
    let bench = Bench::whole();
    assert!(bench.fine(&["runs", "."]).contains("in .; `bench run"));
    bench.fine(&["score", "suite.yaml"]);
    let said = bench.fine(&["runs"]);
    assert!(
        said.starts_with("tiny ") && said.contains(" 8 cells"),
        "{said}"
    );
    bench.refused(&["runs", "absent"], &["absent", "`bench run SUITE`"]);
}

#[test]
fn tables_combine_rows_of_several_runs() {
    let bench = Bench::whole();
    let short = [
        "run",
        "suite.yaml",
        "--set",
        "fine_tune=null",
        "--set",
        "seeds=[0]",
    ];
    bench.fine(&[&short[..], &["--out", "short"]].concat());
    let long = [
        "--out",
        "long",
        "--set",
        "pretrain.epochs=4",
        "--only",
        "Identity",
    ];
    bench.fine(&[&short[..], &long].concat());
    bench.fine(&["report", "short", "--tables", "6", "--with", "long"]);
    let table = std::fs::read_to_string(bench.path("short/tables/table6.csv")).unwrap();
    let epochs: Vec<&str> = table
        .lines()
        .filter_map(|l| l.split(',').rev().nth(5))
        .collect();
    assert_eq!(epochs.len(), 1 + 4, "{table}");
    assert!(
        table.contains("Identity,ViT-nano,3,") && table.contains("Identity,ViT-nano,4,"),
        "{table}"
    );
    bench.refused(
        &["report", "short", "--with", "absent"],
        &["absent/results.csv", "bench run"],
    );
}

#[test]
fn report_reproduces_the_files_of_the_run() {
    let bench = Bench::whole();
    bench.fine(&["run", "suite.yaml", "--out", "out", "--set", "seeds=[0]"]);
    let files = ["tables/table1.md", "comparisons.csv", "report.html"];
    let read = || files.map(|name| std::fs::read(bench.path("out").join(name)).unwrap());
    let first = read();
    std::fs::remove_dir_all(bench.path("out/tables")).unwrap();
    bench.fine(&["report", "out"]);
    assert!(read() == first);
    bench.fine(&["report", "out", "--tables", "7"]);
    bench.refused(&["report", "out", "--tables", "8"], &["no table 8"]);
    bench.refused(&["report", "nowhere"], &["nowhere", "results.csv"]);
    // Unreadable predictions are an error.
    let predictions = bench.path("out/cells/identity-s0/predictions-probe.npy");
    std::fs::remove_file(&predictions).unwrap();
    bench.fine(&["report", "out"]);
    std::fs::write(&predictions, "cut off").unwrap();
    bench.refused(&["report", "out"], &["predictions-probe.npy"]);
}

#[test]
fn score_does_no_training_and_run_reuses_its_stages() {
    let bench = Bench::new(&format!("{HEAD}fit_seed: 0\n{ROWS}{RECIPE}"));
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let out = bench.path("out");
    assert!(column(&out, "lp_top1").iter().all(String::is_empty));
    assert!(column(&out, "status").iter().all(|s| s == "ok"));
    let tcas = column(&out, "tcas");
    let output = bench.bench(&[
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--only",
        "K-means Pixel, K=4",
    ]);
    assert!(output.status.success(), "{}", error(&output));
    assert!(
        !error(&output).contains("fit:"),
        "the codebook is already fitted"
    );
    assert_eq!(column(&out, "tcas"), tcas);
}

#[test]
fn a_dry_run_reports_stored_stages_and_writes_nothing() {
    let bench = Bench::whole();
    let before = bench.fine(&["run", "suite.yaml", "--dry-run", "--out", "out"]);
    assert!(
        before.contains("fit to compute") && !before.contains("stored"),
        "{before}"
    );
    assert!(!bench.path("out").exists());
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let after = bench.fine(&["run", "suite.yaml", "--dry-run"]);
    assert!(
        after.contains("fit stored, count stored, metrics stored"),
        "{after}"
    );
    assert!(after.contains("pretrain to compute"), "{after}");
}

#[test]
fn tokenize_writes_ids_labels_and_names() {
    let bench = Bench::whole();
    let args = [
        "tokenize",
        "suite.yaml",
        "--only",
        "K-means Pixel, K=8",
        "--split",
        "val",
        "--out",
        "ids.npy",
    ];
    let said = bench.fine(&args);
    assert!(said.contains("40 images x 16 patches"), "{said}");
    let read =
        |name: &str| npyz::NpyFile::new(std::fs::File::open(bench.path(name)).unwrap()).unwrap();
    let ids = read("ids.npy");
    assert_eq!(ids.shape(), [40, 16]);
    assert!(ids.into_vec::<u32>().unwrap().iter().all(|id| *id < 8));
    assert_eq!(read("ids.labels.npy").into_vec::<u32>().unwrap().len(), 40);
    assert_eq!(
        std::fs::read_to_string(bench.path("ids.files.txt"))
            .unwrap()
            .lines()
            .count(),
        40
    );
    let args = [
        "tokenize",
        "suite.yaml",
        "--only",
        "Identity",
        "--split",
        "train",
        "--out",
        "values.npy",
    ];
    bench.fine(&args);
    assert_eq!(read("values.npy").shape(), [96, 16, 48]);
    let args = [
        "tokenize",
        "suite.yaml",
        "--only",
        "No pretraining",
        "--split",
        "val",
        "--out",
        "x.npy",
    ];
    bench.refused(&args, &["has no tokenizer"]);
}

#[test]
fn list_prints_all_names() {
    let bench = Bench::whole();
    for (what, names) in [
        ("tokenizers", vec!["continuous", "kmeans"]),
        ("features", vec!["pixels", "hog"]),
        ("datasets", vec!["image-folder", "cifar-binary", "mosaics"]),
        ("backbones", vec!["nano", "Ti", "S", "B", "L", "H"]),
        ("metrics", vec!["tcas", "pnmi"]),
        (
            "columns",
            vec!["lp_top1", "null_mean", "peak_mib", "p_holm"],
        ),
        ("tables", vec!["1", "2", "7"]),
    ] {
        let said = bench.fine(&["list", what]);
        for name in names {
            assert!(
                said.lines()
                    .any(|line| line.split_whitespace().next() == Some(name)),
                "{name} in {said}"
            );
        }
    }
    assert!(bench.fine(&["schema"]).contains("\"$schema\""));
    let doctor = bench.fine(&["doctor", "--data", "nosuch"]);
    assert!(doctor.contains("give the folder"), "{doctor}");
    let valid = bench.fine(&["validate", "suite.yaml"]);
    assert!(valid.contains("4 rows x 2 seeds"), "{valid}");
}

#[test]
fn the_store_is_listed_and_cleaned() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml"]);
    let said = bench.fine(&["store", "ls"]);
    assert!(
        said.contains("fit") && said.contains("K-means Pixel, K=8") && said.contains("20 entries"),
        "{said}"
    );
    let gc = |args: &[&str]| bench.fine(&[&["store", "gc"], args].concat());
    assert!(gc(&[]).contains("removed 0"), "young entries stay");
    let dry = gc(&["--keep-days", "0", "--dry-run"]);
    assert!(dry.contains("would remove 20"), "{dry}");
    assert!(bench.fine(&["store", "ls"]).contains("20 entries"));
    gc(&["--keep-days", "0"]);
    assert!(bench.fine(&["store", "ls"]).contains("0 entries"));
}

#[test]
fn a_failed_cell_leaves_the_others_and_exit_status_1() {
    // At this learning rate, the loss becomes infinite in a few steps. Only the overridden row uses it.
    let rows = "tokenizers:
  - {name: Wild, kind: continuous, with: {features: {kind: pixels}}, override: {pretrain: {base_lr: 1000, weight_decay: 1000, warmup_epochs: 0}}}
  - {name: Tame, kind: continuous, with: {features: {kind: pixels}}}
";
    let bench = Bench::new(&format!("{HEAD}{rows}{RECIPE}"));
    let output = bench.bench(&["run", "suite.yaml", "--out", "out", "--set", "seeds=[0]"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let out = bench.path("out");
    assert_eq!(column(&out, "status"), ["failed", "ok"]);
    let errors = column(&out, "error");
    assert!(errors[0].contains("not finite 5 steps"), "{errors:?}");
    assert!(!column(&out, "lp_top1")[1].is_empty());
}

#[test]
fn invalid_arguments_get_status_2() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}{RECIPE}"));
    bench.refused(&["run"], &["SUITE"]);
    bench.refused(&["run", "absent.yaml"], &["absent.yaml", "quickstart"]);
    bench.refused(&["run", "suite.yaml", "--threads", "0"], &["--threads"]);
    bench.refused(
        &["run", "suite.yaml", "--device", "cuda"],
        // With CUDA but without a GPU, the reason in the message differs.
        &["--device cuda", "--device cpu"],
    );
    bench.refused(
        &["run", "suite.yaml", "--only", "Identiy"],
        &["Identiy", "did you mean `Identity`"],
    );
    bench.refused(&["run", "suite.yaml", "--set", "pretrain"], &["pretrain"]);
    assert!(
        !bench.path("runs/tiny").exists(),
        "nothing is written before the check"
    );
}

#[test]
fn doctor_names_the_program_that_a_gpu_needs() {
    let bench = Bench::new(HEAD);
    let doctor = bench.fine(&["doctor"]);
    assert!(doctor.contains("threads"), "{doctor}");
    let mut lines = doctor.lines();
    let line = lines.find(|line| line.starts_with("CUDA")).unwrap();
    // A program with CUDA reports its GPU instead.
    let says = ["--features cuda", "NVIDIA driver", "compute capability"];
    assert!(says.iter().any(|part| line.contains(part)), "{line}");
}
