//! Suites on a cluster, which `tests/slurm.sh` or `tests/hq.sh` has started.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Bench, HEAD, RECIPE, ROWS, column, error, results, skipped};
use crate::{WILD, plan};

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
    let texts = logs(run);
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
        // The page is too long for a message.
        assert!(
            without_seconds(&ours[name]) == without_seconds(text),
            "{name} differs"
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
    let one = std::env::var("TESSERA_NODES").is_ok_and(|count| count == "1");
    assert!(to != "slurm" || one || hosts.len() > 1, "{hosts:?}");
}

/// Removes the costs of stages from a page.
fn without_seconds(text: &str) -> String {
    let all = text.split_once("Its stages took ");
    let all =
        all.and_then(|(before, rest)| Some(format!("{before}{}", rest.split_once(" in all")?.1)));
    let text = all.as_deref().unwrap_or(text);
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

/// What a training that finds a state says.
const CONTINUES: &str = "continues after step";

/// Two trainings that take at least five seconds each, so that they overlap although a scheduler starts them one after the other.
fn long_training() -> Bench {
    let rows = "tokenizers:\n  - {name: A, kind: continuous, with: {features: {kind: pixels}}}\n";
    let suite = format!("{HEAD}{rows}{RECIPE}");
    Bench::new(&suite.replace("{epochs: 3, batch: 32", "{epochs: 1000, batch: 32"))
}

/// Returns the arguments that submit `suite.yaml`; its trainings write a state every 0.2 s.
fn submission(to: &str) -> Vec<&str> {
    let (store, out) = (["--store", "store"], ["--out", "out"]);
    let every = ["--checkpoint-every", "0.2"];
    [
        &["submit", "suite.yaml", "--to", to][..],
        &store,
        &out,
        &every,
    ]
    .concat()
}

/// Waits until both trainings have written their state a second time: the first is written before the first step.
fn wait_for_states(bench: &Bench) {
    let mut first = HashMap::new();
    wait_for("second state of two nodes", || {
        let states = fs::read_dir(bench.path("store/.state/pretrain")).ok()?;
        let later = states.flatten().filter(|state| {
            let Ok(now) = fs::read(state.path().join("state.safetensors")) else {
                return false;
            };
            first.entry(state.path()).or_insert_with(|| now.clone()) != &now
        });
        (later.count() == 2).then_some(())
    });
}

/// Returns the texts of a submission's logs.
fn logs(run: &Path) -> Vec<String> {
    let logs = fs::read_dir(run.join("submit/logs")).unwrap().flatten();
    logs.map(|log| fs::read_to_string(log.path()).unwrap())
        .collect()
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
    let bench = long_training();
    let all = submission("slurm");
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
    wait_for_states(&bench);
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
    let logs = logs(&bench.path("out"));
    let stopped: Vec<&String> = logs
        .iter()
        .filter(|log| log.contains("keeping its state"))
        .collect();
    assert_eq!(stopped.len(), 1, "only the requeued node got a signal");
    // The log is appended to, so it has both attempts.
    let (_, later) = stopped[0].split_once("keeping its state").unwrap();
    assert!(later.contains(CONTINUES), "{later}");
    let continued = logs.iter().filter(|log| log.contains(CONTINUES));
    assert_eq!(continued.count(), 2, "the killed node's work goes on, too");
}

/// `tests/hq.sh` can kill a worker of a program `hq`; those of the Python package are threads of one process.
#[test]
fn on_a_cluster_of_hyperqueue_another_worker_does_the_work_of_a_killed_one() {
    let test = "the work of a killed worker";
    if scheduler(test).as_deref() != Some("hq") {
        return;
    }
    if std::env::var_os("TESSERA_KILLS_WORKERS").is_none() {
        skipped(&format!("{test}: no program hq, so no worker to kill"));
        return;
    }
    let bench = long_training();
    let all = submission("hq");
    bench.fine(&all);
    wait_for_states(&bench);
    said(&mut Command::new("kill-worker"));
    let waited = bench.bench(&[&all[..], &["--wait"]].concat());
    assert_eq!(waited.status.code(), Some(0), "{}", error(&waited));
    bench.fine(&["run", "suite.yaml", "--out", "whole", "--store", "other"]);
    assert_eq!(results(&bench.path("out")), results(&bench.path("whole")));
    let logs = logs(&bench.path("out"));
    let continued = logs.iter().filter(|log| log.contains(CONTINUES)).count();
    assert_eq!(continued, 1, "the killed worker's node, not the other");
}
