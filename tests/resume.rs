//! Finished stages are neither lost nor repeated, and no number depends on threads or interruptions.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use common::{Bench, results};

/// Returns the finished stages and their modification times. Unfinished ones are in a hidden folder.
fn finished(store: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    let stages = std::fs::read_dir(store).into_iter().flatten().flatten();
    for stage in stages.filter(|s| !s.file_name().to_string_lossy().starts_with('.')) {
        for entry in std::fs::read_dir(stage.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let result = entry.path().join("result.json");
            if let Ok(about) = result.metadata() {
                found.insert(result, about.modified().unwrap());
            }
        }
    }
    found
}

#[test]
fn a_killed_run_resumes_and_gives_the_same_results() {
    let bench = Bench::whole();
    let whole = [
        "run",
        "suite.yaml",
        "--out",
        "whole",
        "--store",
        "store-whole",
    ];
    let start = std::time::Instant::now();
    bench.fine(&whole);
    let took = start.elapsed();
    let args = [
        "run",
        "suite.yaml",
        "--out",
        "killed",
        "--store",
        "store-killed",
        "--checkpoint-every",
        "0",
    ];
    let store = bench.path("store-killed");
    let mut before: BTreeMap<PathBuf, SystemTime> = BTreeMap::new();
    let mut interrupted = 0;
    for part in [0.13, 0.31, 0.22, 0.4] {
        let mut child = bench
            .command(&args)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(took.mul_f64(part).max(Duration::from_millis(20)));
        interrupted += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let after = finished(&store);
        for (entry, written) in &before {
            assert_eq!(
                after.get(entry),
                Some(written),
                "{} was computed again",
                entry.display()
            );
        }
        before = after;
    }
    assert!(interrupted >= 2, "the machine was too fast: {took:?}");
    bench.fine(&args);
    let last = finished(&store);
    for (entry, written) in &before {
        assert_eq!(
            last.get(entry),
            Some(written),
            "{} was computed again",
            entry.display()
        );
    }
    assert_eq!(
        results(&bench.path("killed")),
        results(&bench.path("whole"))
    );
    let said = bench.bench(&args);
    assert!(
        !common::error(&said).contains("fit:"),
        "a finished run computes nothing"
    );
}

#[test]
fn one_and_two_threads_give_the_same_bytes() {
    let bench = Bench::whole();
    for threads in ["1", "2"] {
        let (out, store) = (format!("out{threads}"), format!("store{threads}"));
        bench.fine(&[
            "run",
            "suite.yaml",
            "--threads",
            threads,
            "--out",
            &out,
            "--store",
            &store,
        ]);
    }
    assert_eq!(results(&bench.path("out1")), results(&bench.path("out2")));
    for file in [
        "codebook.safetensors",
        "pretrained.safetensors",
        "probe.safetensors",
        "finetuned.safetensors",
    ] {
        let read = |out: &str| {
            std::fs::read(
                bench
                    .path(out)
                    .join("cells/k-means-pixel-k-8-s0")
                    .join(file),
            )
            .unwrap()
        };
        assert!(read("out1") == read("out2"), "{file} differs");
    }
}

#[test]
fn an_interrupt_gives_status_130_and_preserves_the_state() {
    let bench = Bench::whole();
    let args = ["run", "suite.yaml", "--set", "pretrain.epochs=400"];
    let child = bench
        .command(&args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Wait until pretraining has started, however busy the machine is.
    let state = bench.path("runs/.store/.state/pretrain");
    let start = std::time::Instant::now();
    while !state.is_dir() && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(130),
        "{}",
        common::error(&output)
    );
    assert!(common::error(&output).contains("run the same command again to resume"));
    assert!(bench.path("runs/tiny/results.csv").is_file());
    assert!(state.is_dir(), "no checkpoint remains");
}
