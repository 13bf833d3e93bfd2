//! Tests the state of cells while a run computes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use tessera_reports::Record;

use super::{Depth, run};
use crate::folder::layout::RESULTS;
use crate::registry::Registry;
use crate::stages::common::context::Context;
use crate::stages::common::reporter::{Outcome, Reporter, Silent};
use crate::store::Store;
use crate::suite::Suite;

const SUITE: &str = "version: 1
name: tiny
seeds: [0, 1]
dataset: {kind: mosaics, seed: 3, train: 40, val: 10, size: 16}
image_size: 16
patch_size: 4
eval_transform: {resize_shorter: 16, crop: 14}
backbone: {variant: nano}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 5, epochs: 2, batch: 32}}
pretrain: {epochs: 1, batch: 32, base_lr: 1.0e-3, warmup_epochs: 0, weight_decay: 0.05, mask_ratio: 0.75, augment: random-resized-crop}
knn: {k: 5, temperature: 0.07}
";

/// Reads the status of every cell when a stage begins.
struct Statuses {
    out: PathBuf,
    found: Mutex<Vec<(String, Vec<String>)>>,
}

impl Reporter for Statuses {
    fn begin(&self, label: &str, _: usize, _: usize, _: Option<f64>) {
        let Ok(text) = std::fs::read_to_string(self.out.join(RESULTS)) else {
            return;
        };
        let records: Vec<Record> = tessera_reports::from_csv(&text, RESULTS).unwrap();
        let statuses = records.into_iter().map(|record| record.status).collect();
        self.found
            .lock()
            .unwrap()
            .push((label.to_owned(), statuses));
    }
    fn progress(&self, _: usize, _: usize, _: &str) {}
    fn end(&self, _: &str, _: f64, _: Outcome<'_>) {}
    fn note(&self, _: &str) {}
}

fn run_suite(dir: &Path, depth: Depth, reporter: &dyn Reporter) {
    let path = dir.join("suite.yaml");
    std::fs::write(&path, SUITE).unwrap();
    let registry = Registry::builtin();
    let suite = Suite::load(&path, &[], &registry).unwrap();
    let store = Store::open(&dir.join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let cx = Context::new(&suite, &registry, &store, reporter, &stop, 2);
    let finished = run(&cx, depth, &dir.join("out")).unwrap();
    assert_eq!(finished.failed, 0);
}

/// Stored results that are not wanted do not stand for wanted ones that are missing.
#[test]
fn a_cell_is_pending_until_all_wanted_results_are_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    run_suite(dir.path(), Depth::All, &Silent);
    std::fs::remove_dir_all(dir.path().join("store/metrics")).unwrap();
    let statuses = Statuses {
        out: dir.path().join("out"),
        found: Mutex::default(),
    };
    run_suite(dir.path(), Depth::Score, &statuses);
    let found = statuses.found.into_inner().unwrap();
    let metrics = found.iter().find(|(label, _)| label == "metrics: K");
    assert_eq!(metrics.unwrap().1, ["pending", "pending"]);
}
