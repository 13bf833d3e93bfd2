//! `bench submit` and `bench node`: a suite as jobs of a scheduler equals one run.
//!
//! Tests whose names begin with `on_a_cluster` or `slurm` need a scheduler: `tests/slurm.sh` and `tests/hq.sh` start one and run them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Bench, HEAD, RECIPE, ROWS, column, error, results, skipped};
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
    bench.command(&all).env("PATH", path).output().unwrap()
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
            "echo \"$@\" >>'{0}'; expr 16 + $(wc -l <'{0}')",
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
    assert!(
        text.contains(r#"env = {"TESSERA_ONNX" = "rten"}"#),
        "{text}"
    );
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
}

/// Returns the scheduler of the cluster around the test.
fn scheduler(test: &str) -> Option<String> {
    let found = std::env::var("TESSERA_SCHEDULER").ok();
    if found.is_none() {
        skipped(&format!(
            "{test}: no cluster (tests/slurm.sh and tests/hq.sh start one)"
        ));
    }
    found
}

/// Returns the tables and the page of a run folder.
fn shown(run: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut tables: Vec<PathBuf> = fs::read_dir(run.join("tables"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    tables.push(run.join("report.html"));
    for path in tables {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        all.insert(name, text);
    }
    all
}

/// Returns the stages that the logs of a submission say were computed.
fn computed(run: &Path) -> Vec<String> {
    let logs = fs::read_dir(run.join("submit/logs")).unwrap().flatten();
    let texts = logs.map(|log| fs::read_to_string(log.path()).unwrap());
    let texts: Vec<String> = texts.collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let done = lines.filter_map(|line| line.split_once(": done in "));
    let mut all: Vec<String> = done.map(|(label, _)| label.trim().to_owned()).collect();
    all.retain(|label| label != "scan");
    all.sort();
    all
}

fn entries(store: &Path) -> usize {
    let stages = fs::read_dir(store).unwrap().flatten();
    let stages = stages.filter(|s| !s.file_name().to_string_lossy().starts_with('.'));
    let entries = stages.flat_map(|stage| fs::read_dir(stage.path()).unwrap().flatten());
    entries
        .filter(|entry| entry.path().join("result.json").exists())
        .count()
}

fn compare_with_one_run(bench: &Bench, suite: &str, to: &str) {
    let whole = bench.path("whole");
    let threads = ["--threads", "1"];
    bench.fine(
        &[
            &["run", suite, "--out", "whole", "--store", "other"][..],
            &threads,
        ]
        .concat(),
    );
    let start = Instant::now();
    let args = [
        "submit", suite, "--to", to, "--wait", "--store", "store", "--out", "out",
    ];
    let said = bench.fine(&[&args[..], &threads].concat());
    let nodes = plan(&bench.path("out"))["nodes"].as_array().unwrap().len();
    eprintln!(
        "{to}: {nodes} nodes in {:.0} s\n{said}",
        start.elapsed().as_secs_f64()
    );
    assert_eq!(results(&bench.path("out")), results(&whole));
    let (ours, theirs) = (shown(&bench.path("out")), shown(&whole));
    for (name, text) in &theirs {
        assert_eq!(
            without_seconds(&ours[name]),
            without_seconds(text),
            "{name}"
        );
    }
    let all = computed(&bench.path("out"));
    let once: BTreeSet<&String> = all.iter().collect();
    assert_eq!(all.len(), once.len(), "computed twice: {all:?}");
    assert_eq!(all.len(), entries(&bench.path("store")));
    let hosts: BTreeSet<String> = (0..nodes)
        .filter_map(|at| fs::read(bench.path(&format!("out/submit/nodes/{at}.json"))).ok())
        .map(|text| serde_json::from_slice::<Value>(&text).unwrap()["host"].to_string())
        .collect();
    eprintln!("hosts: {hosts:?}");
    assert!(to != "slurm" || hosts.len() > 1, "{hosts:?}");
}

/// Removes the costs of stages from a page.
fn without_seconds(text: &str) -> String {
    let parts = text.split("; store key");
    let parts = parts.map(|part| {
        part.rsplit_once("cost of ")
            .map_or(part, |(before, _)| before)
    });
    parts.collect()
}

#[test]
fn on_a_cluster_results_equal_those_of_one_run() {
    let Some(to) = scheduler("results equal those of one run") else {
        return;
    };
    compare_with_one_run(&Bench::whole(), "suite.yaml", &to);
}

#[test]
#[ignore = "takes minutes: tests/slurm.sh --quickstart"]
fn on_a_cluster_the_quickstart_equals_one_run() {
    let Some(to) = scheduler("the quickstart equals one run") else {
        return;
    };
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/suites/quickstart.yaml");
    compare_with_one_run(&Bench::new(""), suite, &to);
}

#[test]
fn on_a_cluster_a_row_that_fails_leaves_the_others_whole() {
    let Some(to) = scheduler("a row that fails leaves the others whole") else {
        return;
    };
    let bench = Bench::new(&format!(
        "{HEAD}{}{WILD}baselines: [no-pretraining]\n{RECIPE}",
        ROWS.replace("baselines: [no-pretraining]\n", "")
    ));
    bench.bench(&["run", "suite.yaml", "--out", "whole", "--store", "other"]);
    let args = [
        "submit",
        "suite.yaml",
        "--to",
        &to,
        "--wait",
        "--store",
        "store",
        "--out",
        "out",
    ];
    let output = bench.bench(&args);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let status = column(&bench.path("out"), "status");
    assert_eq!(status, column(&bench.path("whole"), "status"));
    assert_eq!(
        status.iter().filter(|s| *s == "failed").count(),
        2,
        "{status:?}"
    );
    let (ours, theirs) = (results(&bench.path("out")), results(&bench.path("whole")));
    for (ours, theirs) in ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, _)| !ours.contains(&"Wild".into()))
    {
        assert_eq!(ours, theirs);
    }
    let errors = column(&bench.path("out"), "error");
    assert!(
        errors
            .iter()
            .any(|error| error.contains(&format!(", {to} "))),
        "{errors:?}"
    );
    let said = bench.fine(&["runs", "out"]);
    assert!(said.contains("2 failed, "), "{said}");
    // The same command tries the failed nodes again, and only those.
    let again = bench.bench(&args);
    assert_eq!(again.status.code(), Some(1), "{}", error(&again));
}

/// Waits for something of another process.
fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no {what} in two minutes"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", error(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn slurm_continues_a_requeued_node_and_computes_the_work_of_a_killed_one_elsewhere() {
    if scheduler("a requeued node and a killed one").as_deref() != Some("slurm") {
        return;
    }
    let rows = "tokenizers:\n  - {name: A, kind: continuous, with: {features: {kind: pixels}}}\n";
    let bench = Bench::new(
        &format!("{HEAD}{rows}{RECIPE}")
            .replace("{epochs: 3, batch: 32", "{epochs: 400, batch: 32"),
    );
    let args = [
        "submit",
        "suite.yaml",
        "--to",
        "slurm",
        "--store",
        "store",
        "--out",
        "out",
    ];
    let all = [&args[..], &["--checkpoint-every", "0.2"]].concat();
    bench.fine(&all);
    let nodes = plan(&bench.path("out"))["nodes"].clone();
    let nodes = nodes.as_array().unwrap();
    let jobs: Value =
        serde_json::from_slice(&fs::read(bench.path("out/submit/jobs.json")).unwrap()).unwrap();
    let job = |seed: u64| {
        let at = nodes
            .iter()
            .position(|node| node["id"] == format!("pretrain/A/{seed}"));
        let jobs = jobs["nodes"].as_array().unwrap();
        let job = jobs
            .iter()
            .find(|job| job[0].as_u64() == at.map(|at| at as u64));
        let file = bench.path(&format!("out/submit/nodes/{}.json", at.unwrap()));
        (job.unwrap()[1].as_str().unwrap().to_owned(), file)
    };
    let host = |file: &Path| {
        let file: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        Some(file["host"].as_str().unwrap().to_owned())
    };
    let ((requeued, _), (killed, file)) = (job(0), job(1));
    // Both have written a state from which they can continue.
    wait_for("state of two nodes", || {
        let states = fs::read_dir(bench.path("store/.state/pretrain")).ok()?;
        let full = |state: PathBuf| fs::read_dir(state).is_ok_and(|files| files.count() > 0);
        (states.flatten().filter(|s| full(s.path())).count() == 2).then_some(())
    });
    let first = host(&file).unwrap();
    said(Command::new("scontrol").args(["requeue", &requeued]));
    said(Command::new("kill-node").arg(&first));
    eprintln!("requeued {requeued}; killed {first}, which computed {killed}");
    let runs = bench.fine(&["runs", "out"]);
    assert!(runs.contains("submitted to slurm"), "{runs}");
    let waited = [&all[..], &["--wait"]].concat();
    bench.fine(&waited);
    assert_ne!(
        host(&file).unwrap(),
        first,
        "the killed node's work was done by another"
    );
    bench.fine(&["run", "suite.yaml", "--out", "whole", "--store", "other"]);
    assert_eq!(results(&bench.path("out")), results(&bench.path("whole")));
    // Each ran twice, and the second time it did not begin anew.
    for (at, node) in nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node["stage"] == "pretrain")
    {
        let entry = fs::read_to_string(bench.path(&format!("out/submit/nodes/{at}.json"))).unwrap();
        assert!(entry.contains("\"status\":0"), "{}: {entry}", node["id"]);
    }
}
