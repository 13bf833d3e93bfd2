//! Results of another machine, as a login node without its GPU finds them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tessera_models::Precision;
use tessera_reports::Record;

use super::{SUITE, out, rows};
use crate::folder::layout::RESULTS;
use crate::registry::Registry;
use crate::run::nodes::{PlannedNode, collect, plan};
use crate::run::{Depth, dry_run, run};
use crate::stages::common::context::Context;
use crate::stages::common::machine::{Machine, architecture};
use crate::stages::common::reporter::Silent;
use crate::store::Store;
use crate::suite::Suite;

fn gpu(name: &str, precision: Precision) -> Machine {
    let chip = format!("{name}, compute capability 9.0").parse().unwrap();
    Machine::with_gpu(architecture(), &chip, precision)
}

/// Calls `work` with the store that all calls for `dir` share, and the machine that is looked up.
fn with<R>(dir: &Path, machine: Option<Machine>, work: impl FnOnce(&Context<'_>) -> R) -> R {
    let path = dir.join("suite.yaml");
    std::fs::write(&path, SUITE).unwrap();
    std::fs::create_dir_all(dir.join("out")).unwrap();
    let registry = Registry::builtin();
    let suite = Suite::load(&path, &[], &registry).unwrap();
    let store = Store::open(&dir.join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let mut cx = Context::new(&suite, &registry, &store, &Silent, &stop, 2);
    cx.looked_up = machine;
    work(&cx)
}

/// Returns the nodes that are not stored, but for `collect`.
fn missing(dir: &Path, machine: Option<Machine>) -> usize {
    let nodes = with(dir, machine, |cx| {
        plan(cx, Depth::All, (None, false)).unwrap()
    });
    nodes.iter().filter(|node| !node.stored).count() - 1
}

#[test]
fn results_of_a_named_gpu_are_found_under_its_name_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let here = || Some(gpu("NVIDIA H200", Precision::Bf16));
    // The CPU stands for the GPU: keys, not bytes, are tested.
    with(dir, here(), |cx| run(cx, Depth::All, &out(dir)).unwrap());
    assert_eq!(missing(dir, here()), 0);
    let costs = with(dir, here(), |cx| dry_run(cx, Depth::All).unwrap());
    let mut stages = costs.all.iter().flat_map(|row| &row.stages);
    assert!(stages.all(|(_, cost)| cost.is_none()), "all are stored");
    std::fs::remove_dir_all(dir.join("out")).unwrap();
    let collected = with(dir, here(), |cx| {
        collect(cx, Depth::All, (&out(dir), false)).unwrap()
    });
    assert!(collected.1.is_empty(), "{:?}", collected.1);
    for record in rows::<Record>(dir, RESULTS) {
        let found = [&record.status, &record.device, &record.dtype].map(String::as_str);
        assert_eq!(found, ["ok", "cuda", "bf16"]);
    }
    // Fits and counts are those of the launcher; models have more in their keys.
    let all = missing(dir, None);
    assert!(all > 0);
    assert_eq!(missing(dir, Some(gpu("NVIDIA H100", Precision::Bf16))), all);
    let models = missing(dir, Some(gpu("NVIDIA H200", Precision::F32)));
    assert!(0 < models && models < all, "{models} of {all}");
}

/// Metrics only read counts, so a scheduler need not give their nodes a GPU for speed.
#[test]
fn nodes_that_use_a_tokenizer_or_an_encoder_use_a_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = with(dir.path(), None, |cx| {
        plan(cx, Depth::All, (None, false)).unwrap()
    });
    let found = |stage: &str| {
        let mut nodes = nodes.iter().filter(|node| node.stage == stage);
        let first = nodes.next().unwrap_or_else(|| panic!("no {stage}"));
        assert!(nodes.all(|node| node.gpu == first.gpu), "{stage}");
        first.gpu
    };
    for stage in ["fit", "count", "gallery", "pretrain", "knn"] {
        assert!(found(stage), "{stage}");
    }
    for stage in ["scan", "metrics", "collect"] {
        assert!(!found(stage), "{stage}");
    }
    let named = nodes.iter().map(|node: &PlannedNode| node.stage.as_str());
    let named: std::collections::BTreeSet<&str> = named.collect();
    assert_eq!(named.len(), 8, "{named:?}");
}
