//! `bench submit` and `bench node`: a suite as jobs of a scheduler equals one run.
//!
//! The tests in `cluster.rs` need a scheduler: `tests/slurm.sh` and `tests/hq.sh` start one and run them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod nodes;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Bench, HEAD, RECIPE, ROWS, column, error, results};
use serde_json::Value;

/// A row whose loss becomes infinite in a few steps.
const WILD: &str = "  - {name: Wild, kind: continuous, with: {features: {kind: hog}}, override: {pretrain: {base_lr: 1000, weight_decay: 1000, warmup_epochs: 0}}}\n";

/// Rows whose names would end a line, a word or a quotation of a shell.
const NAMES: &str = r#"tokenizers:
  - {name: "It's $HOME `x` \"y\"; exit 1", kind: continuous, with: {features: {kind: pixels}}}
  - {name: "-K*\\", kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 2, batch: 32}}
"#;

fn plan(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("submit/plan.json")).unwrap()).unwrap()
}

fn scripts(run: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(run.join("submit")).unwrap().flatten();
    let mut scripts: Vec<PathBuf> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|end| end == "sbatch"))
        .collect();
    scripts.sort();
    scripts
}

/// Returns the tasks of a script's array; `None` for a script without one.
fn tasks(script: &str) -> Vec<Option<usize>> {
    let array = script
        .lines()
        .find_map(|l| l.strip_prefix("#SBATCH --array="));
    let Some(array) = array else {
        return vec![None];
    };
    let part = |part: &str| {
        let (start, end) = part.split_once('-').unwrap_or((part, part));
        start.parse::<usize>().unwrap()..=end.parse().unwrap()
    };
    array.split(',').flat_map(part).map(Some).collect()
}

/// Writes a program for the PATH.
fn program(bench: &Bench, name: &str, text: &str) -> PathBuf {
    let bin = bench.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

/// Runs `bench submit` with the programs of `bin` first on the PATH.
fn submit(bench: &Bench, bin: &Path, args: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap();
    let all = [
        &["submit", "suite.yaml", "--store", "store", "--out", "out"],
        args,
    ]
    .concat();
    let path = format!("{}:{path}", bin.display());
    let mut command = bench.command(&all);
    command.env("PATH", path).env("SBATCH_EXPORT", "NONE");
    command.output().unwrap()
}

#[test]
fn scripts_run_in_their_order_give_the_results_of_one_run() {
    let bench = Bench::new(&format!("{HEAD}{NAMES}{RECIPE}"));
    bench.fine(&["run", "suite.yaml", "--out", "whole", "--store", "other"]);
    let out = "it's a\n$(run)";
    let args = [
        "submit",
        "suite.yaml",
        "--to",
        "slurm",
        "--dry-run",
        "--store",
        "the store",
        "--out",
        out,
    ];
    let said = bench.fine(&args);
    assert!(said.contains("--dependency=aftercorr:JOB_"), "{said}");
    // Nodes compute the suite that was submitted.
    fs::write(bench.path("suite.yaml"), "changed").unwrap();
    for path in scripts(&bench.path(out)) {
        let script = fs::read_to_string(&path).unwrap();
        assert!(!script.contains("HOME"), "{script}");
        for task in tasks(&script) {
            let mut command = Command::new("bash");
            command.arg(&path).current_dir("/");
            command.env("TESSERA_ONNX", "rten");
            command.env_remove("SLURM_JOB_ID");
            if let Some(task) = task {
                command.env("SLURM_ARRAY_TASK_ID", task.to_string());
            }
            let output = command.output().unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                error(&output)
            );
        }
    }
    assert_eq!(results(&bench.path(out)), results(&bench.path("whole")));
    let said = bench.fine(&["runs", out]);
    assert!(said.contains(" done"), "{said}");
    // A plan that nobody computes does not hide the results.
    fs::write(bench.path("suite.yaml"), format!("{HEAD}{NAMES}{RECIPE}")).unwrap();
    bench.fine(&args);
    let said = bench.fine(&["runs", out]);
    assert!(
        said.contains("  done\n") && !said.contains("  planned"),
        "{said}"
    );
    // A relative path, from a folder other than that of the submission.
    let elsewhere = bench.path(out).join("submit");
    let scan = bench
        .command(&["node", "..", "0"])
        .current_dir(elsewhere)
        .output()
        .unwrap();
    assert!(scan.status.success(), "{}", error(&scan));
    let last = plan(&bench.path(out))["nodes"].as_array().unwrap().len();
    let args = ["node", out, &last.to_string()];
    bench.refused(&args, &["expected 0 to"]);
    bench.refused(
        &["node", "nothing", "0"],
        &["expected a folder of `bench submit`"],
    );
}

#[test]
fn a_live_submission_is_not_submitted_again_and_stored_nodes_are_left_out() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}{RECIPE}"));
    bench.fine(&["score", "suite.yaml", "--out", "scores", "--store", "store"]);
    let calls = bench.path("calls");
    // Ids count up from 17; all jobs are in the queue until the file `calls` is removed.
    program(
        &bench,
        "sbatch",
        &format!(
            "echo \"$@\" export=$SBATCH_EXPORT. >>'{0}'; expr 16 + $(wc -l <'{0}')",
            calls.display()
        ),
    );
    let bin = program(
        &bench,
        "squeue",
        &format!("[ ! -e '{}' ] || echo PD 17 0", calls.display()),
    );
    let output = submit(&bench, &bin, &["--to", "slurm", "--", "--partition=a b"]);
    assert!(output.status.success(), "{}", error(&output));
    let nodes = plan(&bench.path("out"))["nodes"].clone();
    let nodes = nodes.as_array().unwrap();
    let text = fs::read_to_string(&calls).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("--partition=a b"), "{text}");
    // It would keep the variables of the submission from the nodes.
    assert!(lines[0].contains("export=."), "{text}");
    let last = lines.last().unwrap();
    assert!(last.contains("afterany:17,afterany:18"), "{last}");
    let submitted: usize = scripts(&bench.path("out"))
        .iter()
        .map(|path| tasks(&fs::read_to_string(path).unwrap()).len())
        .sum();
    let stored = nodes.iter().filter(|node| node["stored"] == true).count();
    assert!(stored > 1, "a score stores the fits");
    assert_eq!(submitted, nodes.len() - stored);

    let before = fs::read(bench.path("out/submit/jobs.json")).unwrap();
    for again in [
        vec!["--to", "slurm"],
        vec!["--to", "slurm", "--dry-run"],
        vec!["--to", "slurm", "--wait", "--set", "pretrain.epochs=1"],
    ] {
        let output = submit(&bench, &bin, &again);
        assert_eq!(output.status.code(), Some(2), "{again:?}");
        let said = error(&output);
        assert!(
            said.contains("scancel 17 18") && said.contains("--wait"),
            "{said}"
        );
    }
    assert_eq!(
        fs::read(bench.path("out/submit/jobs.json")).unwrap(),
        before
    );
    // A submission that was interrupted: `--wait` waited for a part, and then results were missing.
    let mut part: serde_json::Value = serde_json::from_slice(&before).unwrap();
    part["nodes"].as_array_mut().unwrap().truncate(1);
    fs::write(bench.path("out/submit/jobs.json"), part.to_string()).unwrap();
    let output = submit(&bench, &bin, &["--to", "slurm", "--wait"]);
    let expected = format!("only 1 of {submitted} nodes were submitted");
    let said = error(&output);
    assert!(
        said.contains(&expected) && said.contains("scancel 17 18"),
        "{said}"
    );
    fs::write(bench.path("out/submit/jobs.json"), &before).unwrap();
    // Without the plan, nodes of another one would be computed by the jobs in the queue.
    let [plan_file, aside] = ["plan.json", "aside"].map(|name| bench.path("out/submit").join(name));
    fs::rename(&plan_file, &aside).unwrap();
    let output = submit(&bench, &bin, &["--to", "slurm"]);
    assert_eq!(output.status.code(), Some(2));
    let said = error(&output);
    assert!(
        said.contains("found no plan.json, but jobs 17 18"),
        "{said}"
    );
    fs::rename(&aside, &plan_file).unwrap();
    // Plans of another version were computed, and without its last node the one before it was.
    let whole = fs::read(&plan_file).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    let (mut other, mut cut) = (plan.clone(), plan);
    other["version"] = 2.into();
    other.as_object_mut().unwrap().remove("suite");
    cut["nodes"].as_array_mut().unwrap().pop();
    for (plan, part) in [
        (other, "found version 2, expected 1"),
        (cut, "the last node is not `collect`"),
    ] {
        fs::write(&plan_file, plan.to_string()).unwrap();
        bench.refused(
            &["node", "out", "0"],
            &["plan.json", part, "submit the suite again"],
        );
    }
    fs::write(&plan_file, whole).unwrap();
    let runs = bench
        .command(&["runs", "out"])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .output()
        .unwrap();
    let said = String::from_utf8(runs.stdout).unwrap();
    assert!(
        said.contains("1 waiting") && said.contains("17_0"),
        "{said}"
    );

    fs::remove_file(&calls).unwrap();
    let output = submit(&bench, &bin, &["--to", "slurm"]);
    assert!(output.status.success(), "{}", error(&output));
}

#[test]
fn a_refused_job_cancels_the_others_and_options_of_the_graph_are_refused() {
    let bench = Bench::whole();
    let cancelled = bench.path("cancelled");
    program(
        &bench,
        "sbatch",
        "case \"$*\" in *02-*) echo 'sbatch: error: no such partition' >&2; exit 1;; *) echo 5;; esac",
    );
    let bin = program(
        &bench,
        "scancel",
        &format!("echo \"$@\" >'{}'", cancelled.display()),
    );
    let output = submit(&bench, &bin, &["--to", "slurm"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error(&output).contains("no such partition"),
        "{}",
        error(&output)
    );
    assert_eq!(fs::read_to_string(&cancelled).unwrap(), "5 5\n");
    assert!(!bench.path("out/submit/jobs.json").exists());
    let output = submit(&bench, &bin, &["--to", "slurm", "--", "--array=1"]);
    assert_eq!(output.status.code(), Some(2));
    let output = submit(&bench, &bin, &["--to", "slurm", "--workers", "99999"]);
    assert!(
        error(&output).contains("--workers 99999: expected at most 1024"),
        "{}",
        error(&output)
    );
    let output = submit(&bench, &bin, &["--to", "hq", "--", "--cpus=1"]);
    assert!(error(&output).contains("NAME=AMOUNT"), "{}", error(&output));
}

/// HyperQueue has no dependency that also waits for failed tasks, so tasks end with status 0.
#[test]
fn a_job_file_of_hyperqueue_computes_the_suite_also_if_a_row_fails() {
    let bench = Bench::new(&format!("{HEAD}{NAMES}{WILD}{RECIPE}"));
    let args = ["--to", "hq", "--dry-run", "--threads", "2", "--", "mem=100"];
    let output = submit(&bench, Path::new("/"), &args);
    assert!(output.status.success(), "{}", error(&output));
    let text = fs::read_to_string(bench.path("out/submit/hq.toml")).unwrap();
    assert!(!text.contains("HOME"), "{text}");
    assert!(
        text.contains(r#"resources = {"cpus" = "2", "mem" = "100"}"#),
        "{text}"
    );
    assert!(text.contains(r#""TESSERA_ONNX" = "rten""#), "{text}");
    for task in text.split("[[task]]").skip(1) {
        let command = task
            .lines()
            .find_map(|l| l.strip_prefix("command = "))
            .unwrap();
        let words: Vec<String> = serde_json::from_str(command).unwrap();
        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", error(&output));
    }
    let status = column(&bench.path("out"), "status");
    assert_eq!(
        status.iter().filter(|s| *s == "failed").count(),
        2,
        "{status:?}"
    );
    assert_eq!(
        status.iter().filter(|s| *s == "ok").count(),
        4,
        "{status:?}"
    );
    let said = bench.fine(&["runs", "out"]);
    assert!(said.contains("2 failed, "), "{said}");
    assert!(said.contains(" not run"), "{said}");
    // Numbers of tasks are those of nodes in the plan, which another submission replaces.
    for (to, has_tasks) in [("slurm", false), ("hq", true)] {
        let output = submit(&bench, Path::new("/"), &["--to", to, "--dry-run"]);
        assert!(output.status.success(), "{}", error(&output));
        assert_eq!(bench.path("out/submit/hq.toml").exists(), has_tasks);
        assert_eq!(scripts(&bench.path("out")).is_empty(), has_tasks);
    }
}
