//! Files that a user names as outputs: links are followed, pipes receive the text, and no older verdict stays.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};

use common::{Bench, HEAD, ROWS, error};
use tessera_reports::Record;

/// A folder with two files of results; those of `worse` are worse.
fn results() -> Bench {
    let bench = Bench::whole();
    let file = |lp: f64, recipe: &str| {
        let record = Record {
            tokenizer: "K".into(),
            dataset: "mosaics".into(),
            n_val: 1000,
            recipe_hash: recipe.into(),
            lp_top1: Some(lp),
            status: "ok".into(),
            ..Record::default()
        };
        tessera_reports::to_csv(&[record]).unwrap()
    };
    for (name, text) in [
        ("old.csv", file(60.0, "a1")),
        ("worse.csv", file(10.0, "a1")),
        ("other.csv", file(10.0, "a2")),
    ] {
        fs::write(bench.path(name), text).unwrap();
    }
    bench
}

fn pipe(bench: &Bench, name: &str) {
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path(name))
        .status();
    assert!(made.unwrap().success());
}

#[test]
fn a_comparison_never_leaves_an_older_verdict() {
    let bench = results();
    let compare = |old: &str, new: &str, more: &[&str]| {
        fs::write(bench.path("c.md"), "### bench compare: no regression\n").unwrap();
        let arguments = ["compare", old, new, "--markdown", "c.md"];
        let output = bench.bench(&[&arguments[..], more].concat());
        let text = fs::read_to_string(bench.path("c.md")).unwrap();
        let (head, rest) = text.split_once('\n').unwrap();
        let verdict = head.strip_prefix("### bench compare: ").unwrap().to_owned();
        (output.status.code(), verdict, rest.to_owned())
    };
    let (status, verdict, text) = compare("old.csv", "other.csv", &[]);
    assert_eq!((status, &verdict[..]), (Some(2), "cannot tell"));
    assert!(text.contains("recipe_hash was a1, is a2"), "{text}");
    let (status, verdict, _) = compare("old.csv", "other.csv", &["--force"]);
    assert_eq!((status, &verdict[..]), (Some(1), "regression"));
    for (old, more, part) in [
        ("absent.csv", &[][..], "absent.csv"),
        ("old.csv", &["--tolerance", "x"], "--tolerance x"),
    ] {
        let (status, verdict, text) = compare(old, "worse.csv", more);
        assert_eq!((status, &verdict[..]), (Some(2), "cannot tell"));
        assert!(text.contains(part), "{text}");
    }
    let json = bench.bench(&["compare", "old.csv", "other.csv", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&json["verdict"], &json["regressed"]),
        (&"cannot tell".into(), &false.into())
    );
}

#[test]
fn tolerances_without_effect_are_refused() {
    let bench = results();
    for (more, part) in [
        (
            &["--tolerance", "lp_top1=1", "--tolerance", "lp_top1=99"][..],
            "a second tolerance of `lp_top1`",
        ),
        (
            &["--tolerance", "1", "--tolerance", "99"],
            "a second tolerance of all metrics",
        ),
        (&["--tolerance", "1e400"], "expected a finite number"),
        (&["--tolerance", "lp_top1=inf"], "expected a finite number"),
        (
            &["--gate", "tcas", "--tolerance", "lp_top1=3"],
            "add --gate lp_top1",
        ),
    ] {
        let arguments = ["compare", "old.csv", "worse.csv"];
        bench.refused(
            &[&arguments[..], more].concat(),
            &[more[more.len() - 1], part],
        );
    }
    bench.fine(&[
        "compare",
        "old.csv",
        "worse.csv",
        "--tolerance",
        "lp_top1=99",
        "--tolerance",
        "1",
    ]);
}

#[test]
fn outputs_go_through_links_and_into_pipes() {
    let bench = results();
    fs::create_dir(bench.path("elsewhere")).unwrap();
    fs::write(bench.path("elsewhere/c.md"), "older").unwrap();
    symlink("elsewhere/c.md", bench.path("link.md")).unwrap();
    pipe(&bench, "pipe");
    let compare = |name: &str| {
        let output = bench.bench(&["compare", "old.csv", "worse.csv", "--markdown", name]);
        assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    };
    compare("link.md");
    let written = std::thread::scope(|scope| {
        let read = scope.spawn(|| fs::read_to_string(bench.path("pipe")).unwrap());
        compare("pipe");
        read.join().unwrap()
    });
    assert!(
        fs::symlink_metadata(bench.path("link.md"))
            .unwrap()
            .is_symlink()
    );
    let linked = fs::read_to_string(bench.path("elsewhere/c.md")).unwrap();
    assert!(written.starts_with("### bench compare: regression") && linked == written);
    let kind = fs::symlink_metadata(bench.path("pipe"))
        .unwrap()
        .file_type();
    assert!(kind.is_fifo());
}

#[test]
fn tokenize_follows_links_and_refuses_pipes_before_any_work() {
    let bench = Bench::whole();
    let to = |out: &'static str| {
        let of_row = [
            "tokenize",
            "suite.yaml",
            "--only",
            "Identity",
            "--split",
            "val",
        ];
        [&of_row[..], &["--out", out]].concat()
    };
    fs::create_dir(bench.path("big")).unwrap();
    symlink("big/values.npy", bench.path("ids.npy")).unwrap();
    symlink("big/names.txt", bench.path("ids.files.txt")).unwrap();
    for _ in 0..2 {
        bench.fine(&to("ids.npy"));
        for (name, target) in [("ids.npy", "values.npy"), ("ids.files.txt", "names.txt")] {
            assert!(fs::symlink_metadata(bench.path(name)).unwrap().is_symlink());
            assert!(bench.path("big").join(target).metadata().unwrap().is_file());
        }
        assert!(bench.path("ids.labels.npy").is_file());
        assert_eq!(fs::read_dir(bench.path("big")).unwrap().count(), 2);
    }
    pipe(&bench, "pipe");
    pipe(&bench, "values.labels.npy");
    let remedy = "name a regular file with --out";
    bench.refused(&to("pipe"), &["pipe: found a pipe or a device", remedy]);
    bench.refused(
        &to("values.npy"),
        &["values.labels.npy: found a pipe or a device", remedy],
    );
    assert!(!bench.path("pipe.labels.npy").exists() && !bench.path("values.npy").exists());
}

/// The notes of the first run stood under the rows of both.
#[test]
fn notes_of_several_runs_say_of_which_run_they_are() {
    let bench = Bench::whole();
    let run = |out: &str, augment: &str, verb: &str| {
        let set = format!("pretrain.augment={augment}");
        bench.fine(&[
            verb,
            "suite.yaml",
            "--out",
            out,
            "--only",
            "K-means Pixel, K=4",
            "--set",
            &set,
        ]);
    };
    run("plain", "none", "run");
    // Nothing is pretrained.
    run("fixed", "fixed-view", "score");
    bench.fine(&["report", "fixed", "--tables", "2"]);
    let table = std::fs::read_to_string(bench.path("fixed/tables/table2.md")).unwrap();
    assert!(!table.contains("pretrained"), "{table}");
    run("fixed", "fixed-view", "run");
    let note = |run: &str, with: &str| {
        bench.fine(&["report", run, "--tables", "2", "--with", with]);
        let table = std::fs::read_to_string(bench.path(run).join("tables/table2.md")).unwrap();
        let note = table
            .lines()
            .find(|line| line.contains("(augment: fixed-view)"));
        note.unwrap().to_owned()
    };
    let of = |which: &str| format!("- {which}: Every row was pretrained");
    assert!(note("plain", "fixed").starts_with(&of("Added run 1")));
    assert!(note("fixed", "plain").starts_with(&of("This run")));
}

#[test]
fn options_of_a_report_without_effect_are_refused() {
    let bench = Bench::whole();
    for option in ["--tables=99", "--with=nowhere"] {
        let args = ["report", "--paper", "figures", option];
        bench.refused(&args, &["cannot be used with"]);
    }
}

/// It was a folder of that name.
#[test]
fn a_store_in_the_home_folder_is_there() {
    let bench = Bench::whole();
    let mut list = bench.command(&["store", "ls"]);
    list.env("TESSERA_STORE", "~/s").env("HOME", "/nowhere");
    let said = list.output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("/nowhere/s (no such folder)"), "{said}");
}

/// It showed one fit.
#[test]
fn a_suite_that_only_scores_shows_the_fits_of_its_run() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    let shown = bench.fine(&["validate", "suite.yaml", "--resolved"]);
    assert!(shown.contains("fit_seeds:\n- 0\n- 1\n- 2\n"), "{shown}");
}

#[test]
fn a_report_takes_the_path_of_the_results_for_their_folder() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let of_folder = bench.fine(&["report", "out"]);
    let of_file = bench.fine(&["report", "out/results.csv"]);
    assert_eq!(of_file, of_folder);
    bench.fine(&["report", "out", "--with", "out/results.csv"]);
    let mut command = bench.command(&["report", "results.csv"]);
    let output = command.current_dir(bench.path("out")).output().unwrap();
    assert!(output.status.success(), "{}", common::error(&output));
    bench.refused(
        &["report", "suite.yaml"],
        &["suite.yaml", "found a file, expected a run folder"],
    );
}
