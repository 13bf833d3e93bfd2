//! `bench plan`, `bench run --node` and `bench run --collect`: a suite computed node by node equals one run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::Output;

use common::{Bench, HEAD, RECIPE, column, error, results};
use serde_json::Value;

fn plan(bench: &Bench) -> Vec<Value> {
    let said = bench.fine(&["plan", "suite.yaml", "--store", "store", "--json"]);
    let plan: Value = serde_json::from_str(&said).unwrap();
    plan["nodes"].as_array().unwrap().clone()
}

fn id(node: &Value) -> &str {
    node["id"].as_str().unwrap()
}

fn after(node: &Value) -> Vec<&str> {
    let after = node["after"].as_array().unwrap();
    after.iter().map(|id| id.as_str().unwrap()).collect()
}

fn run_node(bench: &Bench, id: &str) -> Output {
    bench.bench(&["run", "suite.yaml", "--store", "store", "--node", id])
}

#[test]
fn nodes_in_separate_processes_give_the_results_of_one_run() {
    let bench = Bench::whole();
    bench.fine(&["run", "suite.yaml", "--out", "whole", "--store", "other"]);
    let nodes = plan(&bench);
    for (at, node) in nodes.iter().enumerate() {
        for before in after(node) {
            let earlier = nodes[..at].iter().any(|other| id(other) == before);
            assert!(earlier, "{} comes before {before}", id(node));
        }
    }
    let last = nodes.last().unwrap();
    assert_eq!((id(last), after(last).len()), ("collect", nodes.len() - 2));
    for node in &nodes[..nodes.len() - 1] {
        let output = run_node(&bench, id(node));
        assert!(output.status.success(), "{}: {}", id(node), error(&output));
    }
    assert!(!bench.path("runs").exists(), "--node wrote a run folder");
    assert!(
        plan(&bench)
            .iter()
            .rev()
            .skip(1)
            .all(|node| node["stored"] == true)
    );
    bench.fine(&[
        "run",
        "suite.yaml",
        "--store",
        "store",
        "--out",
        "parts",
        "--collect",
    ]);
    assert_eq!(results(&bench.path("parts")), results(&bench.path("whole")));
}

#[test]
fn a_node_without_its_inputs_waits_and_an_unknown_one_is_refused() {
    let bench = Bench::whole();
    let nodes = plan(&bench);
    let waiting = nodes
        .iter()
        .find(|node| id(node).starts_with("pretrain/") && after(node) != ["scan"]);
    let waiting = waiting.unwrap();
    let output = run_node(&bench, id(waiting));
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    assert!(
        error(&output).contains(after(waiting)[0]),
        "{}",
        error(&output)
    );
    let unknown = [
        "run",
        "suite.yaml",
        "--store",
        "store",
        "--node",
        "fit/nothing",
    ];
    bench.refused(&unknown, &["fit/nothing", "bench plan"]);
    let both = ["run", "suite.yaml", "--node", "scan", "--collect"];
    assert_eq!(bench.bench(&both).status.code(), Some(2));
    let output = bench.bench(&[
        "run",
        "suite.yaml",
        "--store",
        "store",
        "--out",
        "early",
        "--collect",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    assert!(
        column(&bench.path("early"), "status")
            .iter()
            .any(|s| s == "pending")
    );
    // The last node of the plan.
    assert_eq!(run_node(&bench, "collect").status.code(), Some(3));
    assert_eq!(
        column(&bench.path("runs/tiny"), "status"),
        column(&bench.path("early"), "status")
    );
}

#[test]
fn a_failure_on_one_machine_is_collected_on_another() {
    // The loss becomes infinite in a few steps.
    let wild = "{pretrain: {base_lr: 1000, weight_decay: 1000, warmup_epochs: 0}}";
    let rows = format!(
        "tokenizers: [{{name: Wild, kind: continuous, with: {{features: {{kind: pixels}}}}, override: {wild}}}]\n"
    );
    let bench = Bench::new(&format!("{HEAD}{rows}{RECIPE}"));
    let nodes = plan(&bench);
    let mut pretrain = nodes
        .iter()
        .filter(|node| id(node).starts_with("pretrain/"));
    let output = run_node(&bench, id(pretrain.next().unwrap()));
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let collect = [
        "run",
        "suite.yaml",
        "--store",
        "store",
        "--out",
        "out",
        "--collect",
    ];
    let output = bench.bench(&collect);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let status = column(&bench.path("out"), "status");
    assert_eq!(status, ["failed", "pending"], "two seeds, one was tried");
    assert!(column(&bench.path("out"), "error")[0].contains("not finite"));
}

/// A folder of two classes in place of the mosaics.
fn on_pictures() -> Bench {
    let drawn = "{kind: mosaics, seed: 3, train: 96, val: 40, size: 16}";
    let row = "tokenizers: [{name: K, kind: kmeans, with: {features: {kind: pixels}, k: 3, epochs: 1, batch: 8}}]\n";
    let suite = format!("{HEAD}{row}{RECIPE}").replace(drawn, "{kind: image-folder, root: images}");
    let bench = Bench::new(&suite);
    for split in ["train", "val"] {
        for class in ["ant", "bee"] {
            std::fs::create_dir_all(bench.path(&format!("images/{split}/{class}"))).unwrap();
            for number in 0..6 {
                picture(&bench, &format!("{split}/{class}/{number}.png"), number);
            }
        }
    }
    bench
}

fn picture(bench: &Bench, name: &str, shade: u8) {
    let pixel = |x, y| image::Rgb([20 * shade, (9 * x) as u8, (7 * y) as u8]);
    let path = bench.path("images").join(name);
    image::RgbImage::from_fn(16, 16, pixel).save(path).unwrap();
}

/// Runs a node on the images that a plan names.
fn run_named(bench: &Bench, id: &str, scan: &str) -> Output {
    let args = ["run", "suite.yaml", "--store", "store", "--node", id];
    bench.bench(&[&args[..], &["--scan", scan]].concat())
}

#[test]
fn nodes_compute_on_the_images_of_the_plan_or_not_at_all() {
    let bench = on_pictures();
    let scan = plan(&bench)[0]["fingerprint"].as_str().unwrap().to_owned();
    // An image that is added after the plan belongs to another scan.
    picture(&bench, "train/ant/new.png", 9);
    let output = run_named(&bench, "fit/K", &scan);
    assert!(output.status.success(), "{}", error(&output));
    assert!(!error(&output).contains("scan"), "{}", error(&output));
    let later = plan(&bench);
    assert_ne!(later[0]["fingerprint"], scan.as_str());
    assert!(later[1..].iter().all(|node| node["stored"] == false));
    let collect = ["run", "suite.yaml", "--store", "store", "--collect"];
    let output = bench.bench(&[&collect[..], &["--out", "o", "--scan", &scan]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    assert!(!error(&output).contains("fit/K"), "{}", error(&output));
    // A replaced image is noticed when it is read.
    picture(&bench, "train/bee/3.png", 11);
    let output = run_named(&bench, "count/K", &scan);
    let said = error(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["train/bee/3.png", "another digest", "bench plan"] {
        assert!(said.contains(part), "{said}");
    }
    // Without the stored scan, the images must be those of the plan.
    std::fs::remove_dir_all(bench.path("store/scan")).unwrap();
    let output = run_named(&bench, "fit/K", &scan);
    assert_eq!(output.status.code(), Some(2), "{}", error(&output));
    for part in [scan.as_str(), "now", "bench plan"] {
        assert!(error(&output).contains(part), "{}", error(&output));
    }
}

#[test]
fn results_of_another_instruction_set_are_looked_up_but_never_computed() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--store", "store"]);
    let doctor = bench.fine(&["doctor", "--json"]);
    let doctor: Value = serde_json::from_str(&doctor).unwrap();
    let own = doctor["instructions"].as_str().unwrap();
    let stored = |arch: &str| {
        let said = bench.fine(&[
            "plan",
            "suite.yaml",
            "--store",
            "store",
            "--json",
            "--arch",
            arch,
        ]);
        let plan: Value = serde_json::from_str(&said).unwrap();
        let nodes = plan["nodes"].as_array().unwrap();
        let counted = nodes
            .iter()
            .filter(|node| node["stage"] == "count" && node["stored"] == true);
        counted.count()
    };
    let other = if own == "x86_64" { "aarch64" } else { "x86_64" };
    assert_eq!([own, other].map(stored), [2, 0]);
    let plan = ["plan", "suite.yaml", "--store", "store", "--arch"];
    for wrong in ["nonsense", "x86_64+fma+avx2"] {
        let args = [&plan[..], &[wrong]].concat();
        bench.refused(&args, &["--arch", wrong, "bench doctor", "+avx2 +fma"]);
    }
    for more in [&[][..], &["--node", "scan"]] {
        let args = [
            &["run", "suite.yaml", "--store", "store", "--arch", own],
            more,
        ]
        .concat();
        bench.refused(&args, &["--arch", "--collect"]);
    }
}

/// A GPU that this machine has not.
const GPU: &str = "NVIDIA Z9, compute capability 99.0";

#[test]
fn results_of_a_gpu_are_looked_up_without_one_but_never_computed() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--store", "store"]);
    let stored = |more: &[&str]| {
        let args = ["plan", "suite.yaml", "--store", "store", "--json"];
        let plan: Value = serde_json::from_str(&bench.fine(&[&args[..], more].concat())).unwrap();
        let nodes = plan["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["stored"] == true).count()
    };
    assert!(stored(&[]) > 1);
    assert_eq!(stored(&["--gpu", GPU]), 1, "only the scan");
    let args = ["run", "suite.yaml", "--store", "store", "--gpu", GPU];
    let dry = bench.fine(&[&args[..], &["--dry-run"]].concat());
    assert!(!dry.contains(" stored"), "{dry}");
    let collect = |out: &str, more: &[&str]| {
        let output = bench.bench(&[&args[..], &["--collect", "--out", out], more].concat());
        assert_eq!(output.status.code(), Some(3), "{}", error(&output));
        let said = error(&output);
        assert!(said.contains(&format!("with results of {GPU}")), "{said}");
        let of = |name| column(&bench.path(out), name)[0].clone();
        (of("device"), of("dtype"))
    };
    assert_eq!(collect("auto", &[]), ("cuda".into(), "bf16".into()));
    let f32 = collect("f32", &["--precision", "f32", "--device", "cuda"]);
    assert_eq!(f32, ("cuda".into(), "f32".into()));
    let about = std::fs::read(bench.path("auto/environment.json")).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    assert_eq!(about["gpu"], GPU);
    for more in [&[][..], &["--node", "scan"]] {
        bench.refused(&[&args[..], more].concat(), &["--gpu", GPU, "--collect"]);
    }
    let both = [&args[..], &["--collect", "--device", "cpu"]].concat();
    bench.refused(&both, &["--device cpu", GPU]);
    let plan = ["plan", "suite.yaml", "--gpu", "NVIDIA Z9"];
    bench.refused(
        &plan,
        &["NVIDIA Z9", "NAME, compute capability M.m", "bench doctor"],
    );
}

#[test]
fn a_store_that_is_made_for_a_look_up_is_named() {
    let bench = Bench::whole();
    for verb in [&["plan"][..], &["run", "--collect"], &["run", "--dry-run"]] {
        let args = [verb, &["suite.yaml", "--store", "mistyped"]].concat();
        let note = "the store mistyped is new";
        let said = error(&bench.bench(&args));
        assert!(
            said.contains(note) && said.contains("--store"),
            "{verb:?}: {said}"
        );
        assert!(!error(&bench.bench(&args)).contains(note), "{verb:?}");
        std::fs::remove_dir_all(bench.path("mistyped")).unwrap();
    }
    // Into a folder with results, `--store` may be mistyped; the first run needs a new store.
    let run = ["score", "suite.yaml", "--out", "first", "--store", "meant"];
    let said = error(&bench.bench(&run));
    assert!(!said.contains("is new"), "{said}");
}
