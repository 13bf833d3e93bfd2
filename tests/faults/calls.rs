//! Looks at the file system are counted: their number follows from the nodes, not from the images or from the rest of the suite.

use std::path::Path;

use serde_json::Value;

use super::common::{Bench, error};
use super::inject::shim;
use super::use_pictures;

/// Looks for the entry of a node and at its files, at most.
const OF_A_NODE: u64 = 16;
/// As [`OF_A_NODE`], of `--collect`, which also copies files of the entry into the run folder.
const OF_A_COLLECTED_NODE: u64 = 32;
/// Looks of a process, at most: suite, dataset, store, and the libraries that an ONNX engine needs.
const OF_A_PROCESS: u64 = 120;

/// Returns the number of calls of kind `look` that `bench` makes with these arguments, and what it prints.
fn looks(bench: &Bench, shim: &Path, args: &[&str]) -> (u64, String) {
    let count = bench.path("count");
    let mut command = bench.command(args);
    command
        .env("LD_PRELOAD", shim)
        .env("FAULT", "eio:look:999999999");
    let output = command.env("FAULT_COUNT", &count).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", error(&output));
    let count = std::fs::read_to_string(count).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (count.trim().parse().unwrap(), said)
}

/// A finished suite of `rows` rows on `images` images of each class and split.
struct Finished {
    bench: Bench,
    sets: Vec<String>,
    fingerprint: String,
    nodes: u64,
    plan: u64,
}

impl Finished {
    fn new(shim: &Path, rows: usize, images: u8) -> Self {
        let bench = Bench::new("");
        use_pictures(&bench, images, "");
        let seeds: Vec<String> = (0..rows).map(|seed| seed.to_string()).collect();
        let mut done = Self {
            bench,
            sets: vec![format!("seeds=[{}]", seeds.join(","))],
            fingerprint: String::new(),
            nodes: 0,
            plan: 0,
        };
        done.bench.fine(&done.args("run", &["--threads", "1"]));
        let plan = done.args("plan", &["--json"]);
        let (plan, said) = looks(&done.bench, shim, &plan);
        let said: Value = serde_json::from_str(&said).unwrap();
        let nodes = said["nodes"].as_array().unwrap();
        done.fingerprint = nodes[0]["fingerprint"].as_str().unwrap().to_owned();
        (done.nodes, done.plan) = (nodes.len() as u64, plan);
        done
    }

    fn args<'a>(&'a self, verb: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec![verb, "suite.yaml", "--store", "store"];
        args.extend(self.sets.iter().flat_map(|set| ["--set", set]));
        args.extend(more);
        args
    }

    /// Returns the looks of a process that computes or finds one node.
    fn node(&self, shim: &Path, id: &str) -> u64 {
        let args = self.args("run", &["--node", id, "--scan", &self.fingerprint]);
        looks(&self.bench, shim, &args).0
    }
}

#[test]
fn looks_follow_from_nodes_and_not_from_images_or_other_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim(dir.path()) else {
        return;
    };
    let small = Finished::new(&shim, 1, 8);
    let images = Finished::new(&shim, 1, 24);
    let seeds = Finished::new(&shim, 4, 8);
    for id in ["scan", "fit/K", "metrics/K", "finetune/K/0"] {
        let expected = small.node(&shim, id);
        assert!(expected > 0, "{id}");
        assert!(expected < OF_A_PROCESS, "{id}: {expected}");
        assert_eq!(images.node(&shim, id), expected, "{id}: other images");
        assert_eq!(seeds.node(&shim, id), expected, "{id}: other nodes");
    }
    // A stored node reads its results, and no image.
    std::fs::remove_dir_all(small.bench.path("images").join("train")).unwrap();
    small.node(&shim, "finetune/K/0");
    let more = seeds.nodes - small.nodes;
    assert!(more > 10, "{more}");
    let each = (seeds.plan - small.plan) / more;
    assert!((1..OF_A_NODE).contains(&each), "{each} for each node");
}

/// A scored suite of `rows` rows with ten stored nodes each: three fits with counts and metrics, and pictures.
fn scored(rows: usize) -> Bench {
    let ks = Vec::from_iter((2..2 + rows).map(|k: usize| k.to_string())).join(", ");
    let row = "  - {name: \"K={k}\", kind: kmeans, with: {features: {kind: pixels}, epochs: 1, batch: 8}, sweep: {k: [KS]}}";
    let lines = super::SUITE
        .lines()
        .map(|line| match line.contains("kind: kmeans") {
            true => row.replace("KS", &ks),
            false => line.to_owned(),
        });
    // Nothing is trained, so every node of the plan is stored.
    let scores = lines.filter(|line| {
        !["pretrain", "knn", "linear_probe", "fine_tune"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    let bench = Bench::new(&Vec::from_iter(scores).join("\n"));
    bench.fine(&["score", "suite.yaml", "--store", "store", "--threads", "1"]);
    bench
}

/// Returns the number of nodes of a scored suite, and the looks of its plan and of `--collect`.
fn looks_of_look_ups(shim: &Path, rows: usize) -> (u64, [u64; 2]) {
    let bench = scored(rows);
    let (planned, said) = looks(
        &bench,
        shim,
        &["plan", "suite.yaml", "--store", "store", "--json"],
    );
    let said: Value = serde_json::from_str(&said).unwrap();
    let nodes = said["nodes"].as_array().unwrap();
    let missing = nodes.iter().filter(|node| node["stored"] == false);
    assert_eq!(missing.count(), 1, "all but `collect` are stored");
    let collect = [
        "run",
        "suite.yaml",
        "--store",
        "store",
        "--collect",
        "--out",
        "out",
    ];
    let (collected, _) = looks(&bench, shim, &collect);
    (nodes.len() as u64, [planned, collected])
}

/// Five hundred nodes: a look-up costs a node as much in a large suite as in a small one.
#[test]
fn looks_of_a_finished_suite_are_bounded_for_each_node() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim(dir.path()) else {
        return;
    };
    let (few, small) = looks_of_look_ups(&shim, 2);
    let (many, large) = looks_of_look_ups(&shim, 50);
    assert_eq!((few, many), (2 + 10 * 2, 2 + 10 * 50));
    for (at, (small, large)) in small.iter().zip(large).enumerate() {
        let each = (large - small) / (many - few);
        eprintln!("{small} looks for {few} nodes, {large} for {many}: {each} for each");
        let most = [OF_A_NODE, OF_A_COLLECTED_NODE][at];
        assert!((1..most).contains(&each), "{each} for each node");
    }
}
