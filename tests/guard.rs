//! Graphs that ask for all memory or never end: an error with status 2, in every verb that opens graphs, and no process is left behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "onnx")]

mod common;

use common::onnx::{FLOAT, INT64, Model, argmax, encoder, int, ints, message, number, text};
use common::{Bench, HEAD, RECIPE, error, onnxruntime, skipped};

/// Verbs that open graphs.
const VERBS: [&[&str]; 7] = [
    &["validate", "suite.yaml"],
    &["run", "suite.yaml"],
    &["run", "suite.yaml", "--dry-run"],
    &["score", "suite.yaml"],
    &["plan", "suite.yaml"],
    &[
        "tokenize",
        "suite.yaml",
        "--only",
        "T",
        "--split",
        "val",
        "--out",
        "v.npy",
    ],
    &[
        "speed", "tokenize", "--preset", "m.onnx", "--data", "images",
    ],
];

/// Returns a suite with a row `T` of the features of `m.onnx`, and a second row of its ids.
fn suite(file: &[u8]) -> Bench {
    let model = "model: m.onnx, input: {scale: zero-one}";
    let bench = Bench::new(&format!(
        "{HEAD}tokenizers:\n  - {{name: T, kind: continuous, with: {{features: {{kind: onnx, {model}}}}}}}\n  \
         - {{name: U, kind: kmeans, with: {{features: {{kind: onnx, {model}}}, k: 4, epochs: 1}}}}\n{RECIPE}"
    ));
    std::fs::write(bench.path("m.onnx"), file).unwrap();
    bench
}

/// Returns the features of the encoder plus the sum of `huge`, which `of` adds.
fn plus(of: impl FnOnce(Model) -> Model) -> Vec<u8> {
    let model = of(encoder());
    let model = model.node("ReduceSum", &["huge"], &["sum"], &[int("keepdims", 0)]);
    let model = model.node("Add", &["f", "sum"], &["out"], &[]);
    model.output("out", FLOAT, &[-1, 8, 4, 4]).file()
}

/// Returns the encoder with an operator that makes a large `huge`.
fn with(operator: &str, inputs: &[&str], attributes: &[Vec<u8>]) -> Vec<u8> {
    plus(|model| {
        let model = model.weights("one", &[1], &[1.0]);
        let model = model.integers("square", &[1 << 20, 1 << 20]);
        let model = model.integers("times", &[1, 1, 1 << 16, 1 << 12]);
        let model = model.integers("pads", &[0, 0, 0, 0, 0, 0, 1 << 20, 1 << 20]);
        let model = model.weights("scales", &[4], &[1.0, 1.0, 3e4, 3e4]);
        let model = model.weights("kernel", &[1, 3, 4, 4], &[1.0; 48]);
        model.node(operator, inputs, &["huge"], attributes)
    })
}

/// Returns graphs that make a tensor of terabytes.
fn huge() -> Vec<(&'static str, Vec<u8>)> {
    let pads = ints("pads", &[1 << 20; 4]);
    let kernel = ints("kernel_shape", &[4, 4]);
    let nearest = text("mode", "nearest");
    vec![
        ("ConstantOfShape", with("ConstantOfShape", &["square"], &[])),
        ("Expand", with("Expand", &["one", "square"], &[])),
        ("Tile", with("Tile", &["images", "times"], &[])),
        ("Pad", with("Pad", &["images", "pads"], &[])),
        (
            "Resize",
            with("Resize", &["images", "", "scales"], &[nearest]),
        ),
        ("Conv", with("Conv", &["images", "kernel"], &[kernel, pads])),
    ]
}

/// Returns a graph that copies its features 2^31 times.
fn endless() -> Vec<u8> {
    let identity = |from: &str, to: &str| {
        message(
            1,
            [message(1, from), message(2, to), message(4, "Identity")].concat(),
        )
    };
    // An empty shape is that of a number; the features have none here.
    let port = |field, name: &str, element| {
        let shape = match element {
            FLOAT => Vec::new(),
            _ => message(2, []),
        };
        let array = message(1, [number(1, element), shape].concat());
        message(field, [message(1, name), message(2, array)].concat())
    };
    let bool = 9;
    let body = [
        identity("go", "on"),
        identity("before", "after"),
        message(2, "body"),
        port(11, "round", INT64),
        port(11, "go", bool),
        port(11, "before", FLOAT),
        port(12, "on", bool),
        port(12, "after", FLOAT),
    ];
    let body = [message(1, "body"), message(6, body.concat()), number(20, 5)].concat();
    let model = encoder().integers("rounds", &[(1 << 31) - 1]);
    let model = model.node("Loop", &["rounds", "", "f"], &["out"], &[body]);
    model.output("out", FLOAT, &[-1, 8, 4, 4]).file()
}

fn engines() -> Vec<&'static str> {
    match onnxruntime() {
        true => vec!["rten", "onnxruntime"],
        false => vec!["rten"],
    }
}

/// Asserts that `bench ARGS` ends with status 2 and an error that contains all of `parts`.
fn refused(bench: &Bench, (engine, args): (&str, &[&str]), limit: (&str, &str), parts: &[&str]) {
    let mut command = bench.command(args);
    command.env("TESSERA_ONNX", engine).env(limit.0, limit.1);
    let output = command.output().unwrap();
    let said = error(&output);
    assert_eq!(output.status.code(), Some(2), "{engine} {args:?}: {said}");
    for part in parts {
        assert!(
            said.contains(part),
            "{engine} {args:?}: expected {part:?} in: {said}"
        );
    }
    assert!(
        !said.contains("backtrace") && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn a_graph_that_asks_for_all_memory_is_refused_in_every_verb() {
    let (_, file) = huge().swap_remove(0);
    let bench = suite(&file);
    for engine in engines() {
        for args in VERBS {
            let parts = ["m.onnx", "4398046511104", "MiB", "TESSERA_ONNX_MEMORY"];
            // The limit is the usual one.
            refused(&bench, (engine, args), ("TESSERA_ONNX_MEMORY", ""), &parts);
        }
    }
}

#[test]
fn no_operator_takes_more_memory_than_the_limit() {
    for engine in engines() {
        for (name, file) in huge() {
            let bench = suite(&file);
            let parts = match (engine, name) {
                // It has a limit of its own.
                ("onnxruntime", "Tile") => ["m.onnx", "Tile"],
                _ => ["m.onnx", "512 MiB"],
            };
            let call: (_, &[&str]) = (engine, &["validate", "suite.yaml"]);
            refused(&bench, call, ("TESSERA_ONNX_MEMORY", "512"), &parts);
        }
    }
}

#[test]
fn a_graph_that_never_ends_is_refused() {
    let bench = suite(&endless());
    for engine in engines() {
        for args in &VERBS[..2] {
            let parts = [
                "m.onnx",
                "within 1 s of processor time",
                "loop",
                "TESSERA_ONNX_SECONDS",
            ];
            refused(
                &bench,
                (engine, args),
                ("TESSERA_ONNX_SECONDS", "1"),
                &parts,
            );
        }
    }
}

#[test]
fn a_limit_that_is_no_number_is_refused() {
    let bench = suite(&endless());
    let call: (_, &[&str]) = ("rten", &["validate", "suite.yaml"]);
    let parts = ["TESSERA_ONNX_MEMORY=8G", "whole number of MiB"];
    refused(&bench, call, ("TESSERA_ONNX_MEMORY", "8G"), &parts);
    // For the system, a limit of 0 is none, or the end of the process.
    for name in ["TESSERA_ONNX_MEMORY", "TESSERA_ONNX_SECONDS"] {
        let found = format!("{name}=0: expected a whole number");
        refused(&bench, call, (name, "0"), &[&found, "at least 1"]);
    }
}

#[test]
fn features_and_ids_of_a_usual_graph_pass() {
    let model = argmax(encoder()).output("f", FLOAT, &[-1, 8, 4, 4]);
    let bench = suite(&model.output("ids", INT64, &[-1, 4, 4]).file());
    let path = bench.path("suite.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    for engine in engines() {
        for output in ["f", "ids"] {
            let row = match output {
                "f" => text.clone(),
                _ => text.replace(
                    "kind: continuous, with: {features: {kind: onnx, model: m.onnx, input: {scale: zero-one}}}",
                    "kind: onnx-ids, with: {model: m.onnx, output: ids, codebook_size: 8, input: {scale: zero-one}}",
                ),
            };
            std::fs::write(&path, row).unwrap();
            let mut command = bench.command(&["validate", "suite.yaml"]);
            let output = command.env("TESSERA_ONNX", engine).output().unwrap();
            assert!(output.status.success(), "{}", error(&output));
        }
    }
}

/// Returns the processes that a process started.
fn started_by(parent: u32) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let by_parent = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in brackets may contain anything.
        let mut words = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        words.nth(1) == Some(&parent.to_string())
    };
    pids.filter(by_parent).collect()
}

#[test]
fn no_process_outlives_the_program() {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};
    if !std::path::Path::new("/proc/self/stat").exists() {
        skipped("no /proc to see processes in");
        return;
    }
    let bench = suite(&endless());
    for (signal, status) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let mut running = bench.command(&["validate", "suite.yaml"]).spawn().unwrap();
        let guard = loop {
            if let [guard] = started_by(running.id())[..] {
                break Pid::from_raw(guard).unwrap();
            }
            assert!(running.try_wait().unwrap().is_none());
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        kill_process(Pid::from_child(&running), signal).unwrap();
        assert_eq!(running.wait().unwrap().code(), status);
        // An orphan ends when it notices; one that does not hangs this test.
        while test_kill_process(guard).is_ok() && !is_dead(guard) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Returns whether a process has ended and nobody has waited for it, as orphans in a container without an init process.
fn is_dead(process: rustix::process::Pid) -> bool {
    let path = format!("/proc/{}/stat", process.as_raw_pid());
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}
