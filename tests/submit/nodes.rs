//! Nodes on a GPU, nodes near their time limit, and very many nodes.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Bench, HEAD, RECIPE, error};
use crate::{plan, program, scripts, submit, tasks};

/// A GPU that this machine has not.
const GPU: &str = "NVIDIA Z9, compute capability 99.0";

#[test]
fn nodes_on_a_named_gpu_are_computed_by_a_program_with_cuda() {
    let bench = Bench::whole();
    let bin = program(&bench, "other", "exit 0");
    let named = ["--to", "slurm", "--dry-run", "--gpu", GPU];
    let with_cuda = env!("CARGO_BIN_EXE_bench");
    if !cfg!(feature = "cuda") {
        for args in [
            &named[..],
            &["--to", "slurm", "--dry-run", "--device", "cuda"],
        ] {
            let output = submit(&bench, &bin, args);
            let said = error(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            for part in [with_cuda, "without CUDA", "--program FILE"] {
                assert!(said.contains(part), "expected {part:?} in: {said}");
            }
        }
    }
    let absent = [&named[..], &["--program", "absent"]].concat();
    let said = error(&submit(&bench, &bin, &absent));
    assert!(said.contains("--program absent"), "{said}");
    let output = submit(
        &bench,
        &bin,
        &[&named[..], &["--program", "bin/other"]].concat(),
    );
    assert!(output.status.success(), "{}", error(&output));
    let plan = plan(&bench.path("out"));
    // What is stored is left out, which is impossible where the GPU is not known.
    assert_eq!(plan["nodes"][0]["stored"], true);
    let other = bench.path("bin/other");
    assert_eq!(plan["program"], other.to_str().unwrap());
    let arguments = plan["arguments"].to_string();
    assert!(arguments.contains("--device=cuda"), "{arguments}");
    assert!(!arguments.contains("--gpu"), "workers have it: {arguments}");
    for script in scripts(&bench.path("out")) {
        let script = fs::read_to_string(script).unwrap();
        assert!(script.contains("#SBATCH --gpus-per-node=1\n"), "{script}");
        assert!(
            script.contains(&format!("exec {} node", other.display())),
            "{script}"
        );
    }
}

/// Stops a node of a job that Slurm says is in `state`, while it trains. Returns the exit status and what it says.
fn stopped(state: &str) -> (Option<i32>, String) {
    let rows = "tokenizers:\n  - {name: A, kind: continuous, with: {features: {kind: pixels}}}\n";
    let suite = format!("{HEAD}{rows}{RECIPE}");
    let bench = Bench::new(&suite.replace("{epochs: 3, batch: 32", "{epochs: 4000, batch: 32"));
    let scontrol = format!("touch '{}'", bench.path("requeued").display());
    program(&bench, "scontrol", &scontrol);
    let bin = program(&bench, "squeue", &format!("echo {state}"));
    let every = ["--checkpoint-every", "0.1"];
    let output = submit(
        &bench,
        &bin,
        &[&["--to", "slurm", "--dry-run"][..], &every].concat(),
    );
    assert!(output.status.success(), "{}", error(&output));
    let nodes = plan(&bench.path("out"))["nodes"].clone();
    let mut nodes = nodes.as_array().unwrap().iter();
    let at = nodes.position(|node| node["id"] == "pretrain/A/0").unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = bench.command(&["node", "out", &at.to_string()]);
    command.env("PATH", path).env("SLURM_JOB_ID", "17");
    command
        .env_remove("SLURM_ARRAY_JOB_ID")
        .env_remove("HQ_JOB_ID");
    let node = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let states = bench.path("store/.state/pretrain");
    let has_state = || {
        let states = fs::read_dir(&states).into_iter().flatten().flatten();
        let mut files = states.flat_map(|state| fs::read_dir(state.path()).into_iter().flatten());
        files.next().is_some()
    };
    while !has_state() {
        assert!(start.elapsed() < Duration::from_secs(60), "no state");
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = format!("kill {}", node.id());
    let killed = Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.unwrap().success());
    let output = node.wait_with_output().unwrap();
    assert!(!bench.path("requeued").exists(), "{state}");
    (output.status.code(), error(&output))
}

/// The last node wrote the results into a new folder of the old name.
#[test]
fn nodes_of_a_renamed_run_folder_are_refused() {
    let bench = Bench::whole();
    let bin = program(&bench, "sbatch", "exit 1");
    let output = submit(&bench, &bin, &["--to", "slurm", "--dry-run"]);
    assert!(output.status.success(), "{}", error(&output));
    fs::rename(bench.path("out"), bench.path("other")).unwrap();
    bench.refused(
        &["node", "other", "0"],
        &["other is not the run folder", "rename it back"],
    );
    assert!(!bench.path("out").exists());
}

#[test]
fn a_stopped_node_goes_back_only_at_its_time_limit_and_after_some_work() {
    let (status, said) = stopped("RUNNING");
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("less than 30 seconds"), "{said}");
    assert!(said.contains("--time="), "{said}");
    let (status, said) = stopped("COMPLETING");
    assert_eq!(status, Some(130), "{said}");
    assert!(!said.contains("--time="), "{said}");
}

#[test]
fn a_run_folder_that_is_a_file_and_a_cluster_that_is_away_are_named_with_the_remedy() {
    let bench = Bench::whole();
    let sbatch = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)";
    let bin = program(&bench, "sbatch", &format!("echo '{sbatch}' >&2; exit 1"));
    fs::write(bench.path("out"), "a file").unwrap();
    let output = submit(&bench, &bin, &["--to", "slurm"]);
    assert_eq!(output.status.code(), Some(2));
    let said = error(&output);
    assert!(
        said.contains("/out: choose a writable folder with --out"),
        "{said}"
    );
    fs::remove_file(bench.path("out")).unwrap();
    let output = submit(&bench, &bin, &["--to", "slurm"]);
    assert_eq!(output.status.code(), Some(2));
    let said = error(&output);
    for part in ["connect failure", "scontrol ping", "--dry-run"] {
        assert!(said.contains(part), "expected {part:?} in: {said}");
    }
}

/// 230 rows by 10 seeds. Every node is planned and submitted once.
#[test]
fn ten_thousand_nodes_are_planned_and_submitted() {
    let (rows, seeds) = (230, 10);
    let ks = Vec::from_iter((2..2 + rows).map(|k: usize| k.to_string())).join(", ");
    let sweep = format!(
        "tokenizers:\n  - {{name: \"K={{k}}\", kind: kmeans, with: {{features: {{kind: pixels}}, epochs: 1, batch: 32}}, sweep: {{k: [{ks}]}}}}\n"
    );
    let head = HEAD.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
    let bench = Bench::new(&format!("{head}{sweep}{RECIPE}"));
    let said = bench.fine(&["plan", "suite.yaml", "--store", "store", "--json"]);
    let planned: Value = serde_json::from_str(&said).unwrap();
    let output = submit(&bench, &bench.path("."), &["--to", "slurm", "--dry-run"]);
    assert!(output.status.success(), "{}", error(&output));
    let submitted = plan(&bench.path("out"));
    let ids = |plan: &Value| -> Vec<String> {
        let nodes = plan["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| node["id"].as_str().unwrap().to_owned())
            .collect()
    };
    // The fit, counts, metrics and pictures of a row; pretraining and three evaluations of a cell; `scan` and `collect`.
    assert_eq!(ids(&submitted).len(), 2 + rows * (4 + 4 * seeds));
    assert_eq!(ids(&planned), ids(&submitted));
    let mut found = BTreeSet::new();
    for path in scripts(&bench.path("out")) {
        let script = fs::read_to_string(&path).unwrap();
        let array = tasks(&script);
        assert!(array.len() <= 1000, "{}", path.display());
        for index in indices(&script) {
            assert!(found.insert(index), "{index} twice");
        }
        assert_eq!(indices(&script).len(), array.len(), "{}", path.display());
    }
    // The plan has stored the scan.
    assert_eq!(found, (1..ids(&submitted).len()).collect());
}

/// Returns the nodes of a script, by their index in the plan.
fn indices(script: &str) -> Vec<usize> {
    let nodes = script.lines().find_map(|line| line.strip_prefix("nodes=("));
    match nodes {
        Some(nodes) => {
            let tasks = nodes.trim_end_matches(')').split(' ');
            let index = |task: &str| task.split_once('=').unwrap().1.parse().unwrap();
            tasks.map(index).collect()
        }
        None => vec![
            script
                .trim_end()
                .rsplit(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap(),
        ],
    }
}

#[test]
fn a_damaged_copy_of_the_suite_is_named_itself() {
    let bench = Bench::whole();
    let bin = program(&bench, "squeue", "exit 0");
    let output = submit(&bench, &bin, &["--to", "slurm", "--dry-run"]);
    assert!(output.status.success(), "{}", error(&output));
    fs::write(bench.path("out/submit/suite.yaml"), "version: [\n").unwrap();
    let output = bench.bench(&["node", "out", "0"]);
    let said = error(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let named = said.contains("out/submit/suite.yaml, read in place of");
    assert!(named && said.contains("submit the suite again"), "{said}");
}
