//! The run folder of several calls: rows of earlier calls stay, other suites and a second process are refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Bench, HEAD, RECIPE, ROWS, column, error, results, signal};

const K4: &str = "K-means Pixel, K=4";

fn only(name: &str) -> Vec<&str> {
    vec!["run", "suite.yaml", "--out", "out", "--only", name]
}

#[test]
fn rows_outside_the_selection_stay() {
    let bench = Bench::whole();
    let out = bench.path("out");
    bench.fine(&only(K4));
    assert_eq!(column(&out, "tokenizer"), [K4, K4]);
    bench.fine(&only("No pretraining"));
    let names = ["No pretraining", "No pretraining", K4, K4];
    assert_eq!(column(&out, "tokenizer"), names, "the order of the suite");
    assert_eq!(column(&out, "status"), ["ok"; 4]);
    bench.fine(&["run", "suite.yaml", "--out", "out"]);
    let (whole, page) = (
        results(&out),
        std::fs::read(out.join("report.html")).unwrap(),
    );
    bench.fine(&only(K4));
    assert_eq!(results(&out), whole);
    assert!(std::fs::read(out.join("report.html")).unwrap() == page);
    // A run that trains fits each codebook once.
    let score = ["score", "suite.yaml", "--out", "out", "--only", K4];
    bench.fine(&[&score[..], &["--set", "fit_seeds=[0]"]].concat());
    assert_eq!(results(&out), whole);
}

/// Seeds left the folder without a word.
#[test]
fn results_that_leave_the_folder_are_named() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let whole = column(&bench.path("out"), "seed");
    assert!(whole.contains(&"1".to_owned()), "{whole:?}");
    let args = ["score", "suite.yaml", "--out", "out", "--set", "seeds=[0]"];
    // With --only, the folder keeps its other rows.
    let only = [&args[..], &["--only", K4]].concat();
    let collect = [
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--set",
        "seeds=[0]",
        "--collect",
        "--only",
        K4,
    ];
    for only in [&only[..], &collect] {
        bench.refused(only, &["(seed 1)", "--only keeps", "no such seeds"]);
        assert_eq!(column(&bench.path("out"), "seed"), whole);
        bench.fine(&["report", "out"]);
    }
    let sums = std::fs::read_to_string(bench.path("out/SHA256SUMS")).unwrap();
    assert!(
        sums.lines()
            .all(|line| bench.path("out").join(&line[66..]).exists())
    );
    let said = common::error(&bench.bench(&args));
    assert!(
        said.contains("out no longer has") && said.contains(&format!("{K4} (seed 1)")),
        "{said}"
    );
    let said = common::error(&bench.bench(&args));
    assert!(!said.contains("no longer has"), "{said}");
}

/// A row that this call does not select must not make it fail.
#[test]
fn a_wrong_row_outside_the_selection_is_pending_with_the_reason() {
    let file = "  - {name: F, kind: token-file, with: {train: ids.npy, codebook_size: 4}}\n";
    let rows = ROWS.replace("baselines", &format!("{file}baselines"));
    let bench = Bench::new(&format!("{HEAD}{rows}"));
    let out = bench.path("out");
    common::write_ids(&bench.path("ids.npy"), 96, 16, |at| at as u32 % 4);
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(column(&out, "status"), ["ok"; 10]);
    std::fs::remove_file(bench.path("ids.npy")).unwrap();
    bench.fine(&["score", "suite.yaml", "--out", "out", "--only", K4]);
    let states = column(&out, "status");
    assert_eq!(states[..8], ["ok"; 8].map(String::from));
    assert_eq!(states[8..], ["pending", "pending"]);
    assert!(column(&out, "error")[8].contains("ids.npy does not exist"));
    bench.refused(
        &["score", "suite.yaml", "--out", "out"],
        &["ids.npy does not exist"],
    );
}

/// Rows outside the selection lack results of a new seed. Nothing said what they wait for.
#[test]
fn a_pending_row_says_what_it_waits_for_until_it_has_it() {
    let bench = Bench::whole();
    let out = bench.path("out");
    let seeds = |seeds: &str| format!("seeds={seeds}");
    let run = |set: &str, more: &[&str]| {
        let args = ["run", "suite.yaml", "--out", "out", "--set", set];
        bench.fine(&[&args[..], more].concat());
    };
    run(&seeds("[0]"), &[]);
    run(&seeds("[0,1]"), &["--only", K4]);
    let pending = "waits for pretrain, knn, probe, finetune; run the suite with this row and seed";
    let states = column(&out, "status");
    let errors = states.iter().zip(column(&out, "error"));
    for ((status, error), row) in errors.zip(column(&out, "tokenizer")) {
        let expected = match (&status[..], &row[..]) {
            ("pending", "No pretraining") => pending.replace("pretrain", "random"),
            ("pending", _) => pending.to_owned(),
            _ => String::new(),
        };
        assert_eq!(error, expected, "{states:?}");
    }
    assert!(states.contains(&"pending".to_owned()), "{states:?}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(&format!("seed 1: pending {pending}")));
    let table = std::fs::read_to_string(out.join("tables/table1.md")).unwrap();
    assert!(
        table.contains(&format!("- Identity: pending {pending}")),
        "{table}"
    );
    run(&seeds("[0,1]"), &[]);
    assert_eq!(column(&out, "status"), ["ok"; 8]);
    assert_eq!(column(&out, "error"), [""; 8]);
}

/// Opening a pipe for writing waits for a reader, also after SIGTERM.
#[test]
#[cfg(unix)]
fn a_pipe_in_place_of_log_or_lock_is_refused() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--out", "out", "--only", K4]);
    let score = ["score", "suite.yaml", "--out", "out"];
    let report = ["report", "out"];
    for (name, refusing) in [
        ("log.txt", &[&score[..]][..]),
        (".lock", &[&score[..], &report[..]][..]),
    ] {
        let path = bench.path("out").join(name);
        let _ = std::fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        for args in refusing {
            let said = [
                "found a pipe or a device, expected a regular file",
                "remove it",
            ];
            bench.refused(args, &[&[name], &said[..]].concat());
        }
        std::fs::remove_file(&path).unwrap();
        bench.fine(&score);
    }
}

#[test]
fn damaged_results_of_an_earlier_run_are_looked_up_again() {
    let bench = Bench::whole();
    let out = bench.path("out");
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let whole = results(&out);
    std::fs::write(out.join("results.csv"), "suite,tokenizer\n\"cut").unwrap();
    bench.fine(&["score", "suite.yaml", "--out", "out", "--only", K4]);
    assert_eq!(results(&out), whole);
}

#[test]
fn the_folder_of_another_suite_is_refused() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--out", "out", "--only", K4]);
    let before = std::fs::read(bench.path("out/results.csv")).unwrap();
    let other = format!("{HEAD}{ROWS}{RECIPE}").replace("name: tiny", "name: other");
    std::fs::write(bench.path("other.yaml"), other).unwrap();
    let args = ["score", "other.yaml", "--out", "out"];
    let parts = ["out holds a run of the suite `tiny`", "`other`", "--out"];
    bench.refused(&args, &parts);
    assert!(std::fs::read(bench.path("out/results.csv")).unwrap() == before);
    // A run that ended before its first results.
    std::fs::remove_file(bench.path("out/results.csv")).unwrap();
    bench.refused(&args, &parts);
    std::fs::remove_dir_all(bench.path("out")).unwrap();
    bench.fine(&args);
}

fn long_run(bench: &Bench) -> Child {
    let args = [
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--set",
        "pretrain.epochs=4000",
    ];
    let mut command = bench.command(&args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    while !bench.path("out/results.csv").is_file() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_second_process_in_a_run_folder_is_refused_until_the_first_is_dead() {
    let bench = Bench::whole();
    let mut first = long_run(&bench);
    let id = first.id().to_string();
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    first.kill().unwrap();
    first.wait().unwrap();
    let said = error(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in [
        &format!("process {id} on "),
        "run suite.yaml --out out",
        "wait",
        "--out",
    ] {
        assert!(said.contains(part), "expected {part:?} in: {said}");
    }
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    assert!(!bench.path("out/.lock").exists());
}

/// Spreadsheets, browsers, LaTeX and terminals must not obey a name.
#[test]
fn names_are_data_in_every_file() {
    let rows = r#"tokenizers:
  - {name: "=1+1", kind: continuous, with: {features: {kind: pixels}}}
  - {name: "<script>alert(1)</script> [x](y) *", kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 1}}
"#;
    let bench = Bench::new(&format!("{HEAD}{rows}report: {{tables: [1]}}\n"));
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let read = |name: &str| std::fs::read_to_string(bench.path("out").join(name)).unwrap();
    assert_eq!(
        column(&bench.path("out"), "tokenizer")[..2],
        ["'=1+1", "'=1+1"]
    );
    let markdown = read("tables/table1.md");
    let (csv, latex) = (read("tables/table1.csv"), read("tables/table1.tex"));
    assert!(csv.contains("\n'=1+1,"), "{csv}");
    assert!(
        markdown.contains("| &lt;script>alert(1)&lt;/script> \\[x\\](y) \\* |"),
        "{markdown}"
    );
    assert!(
        latex.contains("$<$script$>$alert(1)$<$/script$>$ {[}x{]}(y) {*}"),
        "{latex}"
    );
    assert!(!read("report.html").contains("<script>alert"));
    // The names are the same when the files are read.
    let files = ["tables/table1.csv", "tables/table1.md", "report.html"].map(read);
    bench.fine(&["report", "out"]);
    assert!(files == ["tables/table1.csv", "tables/table1.md", "report.html"].map(read));
    let said = bench.fine(&["score", "suite.yaml", "--out", "out", "--only", "=1+1"]);
    assert!(said.lines().any(|line| line.trim_end() == "=1+1"), "{said}");
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 4]);
    std::fs::write(bench.path("\u{1b}[2J.yaml"), "").unwrap();
    let said = error(&bench.bench(&["validate", "\u{1b}[2J.yaml"]));
    assert!(
        said.contains("\\u{1b}[2J.yaml") && !said.contains('\u{1b}'),
        "{said:?}"
    );
}

#[test]
fn a_path_that_the_shell_did_not_expand_is_refused() {
    let bench = Bench::whole();
    for option in ["--out=~/runs", "--store=~/store"] {
        bench.refused(
            &["score", "suite.yaml", option],
            &["~", "only after a space"],
        );
        assert!(!bench.path("~").exists());
    }
}

/// Two projects whose images differ and whose datasets have the same name.
#[test]
fn runs_of_other_images_are_neither_compared_nor_merged() {
    let bench = Bench::whole();
    let score = |out: &str, sets: &str| {
        bench.fine(&["score", "suite.yaml", "--out", out, "--set", sets]);
    };
    score("old", "dataset.seed=3");
    score("new", "dataset.seed=4");
    let refused = bench.bench(&["compare", "old", "new"]);
    assert_eq!(refused.status.code(), Some(2), "{}", error(&refused));
    let said = String::from_utf8(refused.stdout).unwrap();
    assert!(said.contains("dataset_fingerprint was "), "{said}");
    assert!(
        bench
            .fine(&["compare", "old", "old"])
            .contains("no regression")
    );
    let report = |with: &str| bench.fine(&["report", "old", "--tables", "3", "--with", with]);
    assert!(!report("new").contains("Left out"));
    let table = std::fs::read_to_string(bench.path("old/tables/table3.csv")).unwrap();
    assert_eq!(table.matches("mosaics (images ").count(), 8, "{table}");
    assert!(report("old").contains("Left out, because an earlier run has the row"));
    let table = std::fs::read_to_string(bench.path("old/tables/table3.md")).unwrap();
    assert!(table.contains("Left out") && table.contains(K4), "{table}");
}

/// The row, the codebook's size and the recipe are the same.
#[test]
fn a_tokenizer_of_other_fields_is_named() {
    let bench = Bench::whole();
    let score = |out: &str, set: &[&str]| {
        let args = ["score", "suite.yaml", "--out", out, "--only", K4];
        bench.fine(&[&args[..], set].concat());
        bench.path(out)
    };
    let old = score("old", &[]);
    score(
        "new",
        &["--set", "tokenizers[1].with.features.normalize=per-patch"],
    );
    let said = bench.fine(&[
        "compare",
        "old",
        "new",
        "--gate",
        "tcas",
        "--tolerance",
        "1",
    ]);
    assert!(
        said.contains("with.features.normalize was absent, is"),
        "{said}"
    );
    // Its default value makes the same tokenizer.
    let same = score(
        "same",
        &["--set", "tokenizers[1].with.features.normalize=none"],
    );
    let said = bench.fine(&["compare", "old", "same"]);
    assert!(!said.contains("normalize"), "{said}");
    let digests = [&old, &same].map(|run| column(run, "tokenizer_digest"));
    assert!(digests[0][0].len() == 16 && digests[0] == digests[1]);
    // Nothing was trained.
    for name in ["dtype", "device"] {
        assert_eq!(column(&old, name), ["", ""]);
    }
}

#[test]
fn emptied_results_are_neither_reported_nor_compared() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    // A baseline of two files has no digests.
    std::fs::remove_file(bench.path("out/SHA256SUMS")).unwrap();
    for name in ["results.csv", "metrics.csv"] {
        let path = bench.path("out").join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        for args in [&["report", "out"][..], &["compare", "out", "out"]] {
            bench.refused(args, &[name, "found no rows", "expected", "bench run"]);
        }
        std::fs::write(&path, whole).unwrap();
        bench.fine(&["report", "out"]);
    }
    // Less information looked like better results.
    let unknown = || {
        bench.fine(&["report", "out", "--tables", "2"]);
        let table = std::fs::read_to_string(bench.path("out/tables/table2.md")).unwrap();
        table.contains("The errors of the metrics are unknown")
    };
    assert!(!unknown());
    std::fs::remove_file(bench.path("out/metrics.csv")).unwrap();
    assert!(unknown());
}

/// A table of an earlier `bench report` kept the numbers of another codebook.
#[test]
fn tables_of_an_earlier_report_have_the_numbers_of_the_run() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    let score = ["score", "suite.yaml", "--out", "out", "--set"];
    let read = || std::fs::read_to_string(bench.path("out/tables/table2.csv")).unwrap();
    bench.fine(&[&score[..], &["fit_seeds=[0]"]].concat());
    bench.fine(&["report", "out", "--tables", "2"]);
    let before = read();
    std::fs::create_dir_all(bench.path("out/figures")).unwrap();
    for name in ["my-lp.svg", "curves-mine.svg", "tcas-lp.svg"] {
        std::fs::write(bench.path("out/figures").join(name), "").unwrap();
    }
    let said = error(&bench.bench(&[&score[..], &["fit_seeds=[1]"]].concat()));
    assert!(
        said.contains("tables 2 of the folder are not in `report.tables` and are written again"),
        "{said}"
    );
    let lost = "no longer has the fits with the seeds 0 of 2 rows (K-means Pixel, K=4, K-means Pixel, K=8)";
    assert!(said.contains(lost), "{said}");
    let has = |name: &str| bench.path("out/figures").join(name).exists();
    assert!(has("my-lp.svg") && has("curves-mine.svg") && !has("tcas-lp.svg"));
    let after = read();
    assert_ne!(before, after);
    bench.fine(&["report", "out", "--tables", "2"]);
    assert_eq!(after, read());
}

/// Such a run wrote the rest of its files into a new folder, or its results over those of a run that had taken the place.
#[test]
fn a_run_whose_folder_is_moved_or_removed_writes_nothing_in_its_place() {
    let bench = Bench::whole();
    let run = ["run", "suite.yaml", "--store", "store"];
    for moved in [true, false] {
        let long = format!("pretrain.epochs={}", 400 + usize::from(moved));
        let mut command = bench.command(&[&run[..], &["--set", &long]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, other) = (bench.path("runs/tiny"), bench.path("runs/other"));
        while !out.join("results.csv").exists() {
            assert!(child.try_wait().unwrap().is_none(), "the run ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&child, "STOP");
        bench.refused(&["report", "runs/tiny"], &["writes into this folder"]);
        let expected = match moved {
            true => std::fs::rename(&out, &other).map(|()| "was moved to"),
            false => std::fs::remove_dir_all(&out).map(|()| "was removed"),
        };
        // Of another store: the stopped run may hold the lock of a stage.
        bench.fine(&["run", "suite.yaml", "--store", "other"]);
        let kept = results(&out);
        signal(&child, "CONT");
        let ended = child.wait_with_output().unwrap();
        let said = error(&ended);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        let expected = expected.unwrap();
        assert!(
            said.contains(expected) && said.contains("run the same command again"),
            "{said}"
        );
        assert_eq!(results(&out), kept);
        bench.fine(&["report", "runs/tiny"]);
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn a_baseline_that_the_selection_leaves_out_is_named() {
    let bench = Bench::whole();
    let said = |only: &str| {
        let more = ["--only", only, "--set", "baseline=Identity", "--out", "out"];
        let output = bench.bench(&[&["score", "suite.yaml"][..], &more].concat());
        assert!(output.status.success(), "{}", error(&output));
        error(&output)
    };
    let note = "the baseline \"Identity\" is not among the rows of this run";
    let first = said("K-means Pixel, K=4");
    assert!(first.contains(note), "{first}");
    assert!(!said("Identity").contains(note));
    // The folder has it now.
    assert!(!said("K-means Pixel, K=4").contains(note));
}

#[test]
fn names_of_rows_that_look_the_same_are_refused() {
    let row = |name: &str| {
        format!(
            "  - {{name: \"{name}\", kind: continuous, with: {{features: {{kind: pixels}}}}}}\n"
        )
    };
    for (first, second, part) in [
        ("RP", "RP ", "no blanks around the name"),
        (" RP", "x", "no blanks around the name"),
        ("\\u200b", "x", "expected a line of text"),
        ("RP", "R\\u200bP", "look the same in tables"),
        ("\\u00e9", "e\\u0301", "look the same in tables"),
        ("RP", "RP", "occurs twice"),
    ] {
        let rows = [row(first), row(second)].concat();
        let bench = Bench::new(&format!("{HEAD}tokenizers:\n{rows}"));
        bench.refused(&["validate", "suite.yaml"], &["name", part]);
    }
}
