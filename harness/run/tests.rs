//! Tests the state of cells while a run computes.

mod codes;
mod controls;
mod machines;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use tessera_reports::{CostRow, MetricRow, Record};

use super::{Depth, run};
use crate::folder::held::RunFolder;
use crate::folder::layout::{COSTS, METRICS, RESULTS};
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

/// Creates and locks the run folder of a test.
fn out(dir: &Path) -> RunFolder {
    RunFolder::prepare(&dir.join("out"), "tiny", "a test").unwrap()
}

fn run_suite(dir: &Path, depth: Depth, reporter: &dyn Reporter) {
    run_with(dir, depth, reporter, &[]);
}

fn run_with(dir: &Path, depth: Depth, reporter: &dyn Reporter, sets: &[String]) {
    assert_eq!(failed_cells(dir, depth, reporter, sets), 0);
}

/// Runs the suite and returns the number of failed cells.
fn failed_cells(dir: &Path, depth: Depth, reporter: &dyn Reporter, sets: &[String]) -> usize {
    let path = dir.join("suite.yaml");
    std::fs::write(&path, SUITE).unwrap();
    let registry = Registry::builtin();
    let suite = Suite::load(&path, sets, &registry).unwrap();
    let store = Store::open(&dir.join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let cx = Context::new(&suite, &registry, &store, reporter, &stop, 2);
    run(&cx, depth, &out(dir)).unwrap().failed
}

/// Nothing uses the result of an evaluation, so one that fails costs no other number of its row.
#[test]
fn an_evaluation_that_fails_leaves_the_others_of_its_row() {
    // Of 40 images, 30 choose the rate (one of each class of four is held out): one step, in which it is 0.
    let probe = "epochs: 1, batch: 17, base_lr: [0.1, 0.2], warmup_epochs: 1";
    let sets = [
        "seeds=[0]".to_owned(),
        format!("linear_probe={{{probe}}}"),
        format!("attentive_probe={{{probe}, queries: 8}}"),
        "fine_tune={epochs: 1, batch: 20, base_lr: 0.1, auto_augment: none}".to_owned(),
    ];
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let failed = failed_cells(dir.path(), Depth::All, &Silent, &sets);
    assert_eq!(failed, 1);
    let found: Vec<Record> = rows(dir.path(), RESULTS);
    let [row] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(row.status, "failed");
    assert!(row.knn_top1.is_some() && row.lp_top1.is_none() && row.ap_top1.is_none());
    assert!(row.ft_top1.is_some(), "{}", row.error);
    let twice = row.error.matches("all steps have rate 0").count();
    assert!((1..=2).contains(&twice), "{}", row.error);
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

fn rows<T: for<'de> serde::Deserialize<'de> + tessera_reports::Measured>(
    dir: &Path,
    name: &str,
) -> Vec<T> {
    let text = std::fs::read_to_string(dir.join("out").join(name)).unwrap();
    tessera_reports::from_csv(&text, name).unwrap()
}

/// The means come first, the rows of the fits are those of runs with one fit, and training uses the first codebook.
#[test]
fn metrics_are_means_over_fits_and_training_uses_the_first() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let run = |seeds: &str| -> (Vec<MetricRow>, Vec<Record>) {
        let sets = [format!("fit_seeds={seeds}")];
        run_with(dir.path(), Depth::All, &Silent, &sets);
        (rows(dir.path(), METRICS), rows(dir.path(), RESULTS))
    };
    let (several, records) = run("[4, 2]");
    let (first, first_records) = run("[4]");
    let (second, _) = run("[2]");
    // Two seeds of pretraining, each with all metrics.
    let metrics = first.len() / 2;
    assert_eq!(several.len(), 6 * metrics);
    let (means, fits) = several[..3 * metrics].split_at(metrics);
    assert_eq!(fits, [&first[..metrics], &second[..metrics]].concat());
    let between = |at: usize| Some((first[at].value? - second[at].value?).abs());
    for (at, mean) in means.iter().enumerate() {
        assert_eq!((mean.fit_seed, &mean.metric), (None, &first[at].metric));
        let expected = Some((first[at].value.unwrap() + second[at].value.unwrap()) / 2.0);
        assert_eq!(mean.value, expected, "{mean:?}");
        // Those of codes and their places have none.
        assert!(mean.se >= between(at) || first[at].se.is_none(), "{mean:?}");
    }
    assert_eq!(records[0].fit_seeds, "4 2");
    assert_eq!(records[0].tcas, means[0].value);
    assert_eq!(
        (records[0].knn_top1, records[0].pretrain_loss),
        (first_records[0].knn_top1, first_records[0].pretrain_loss)
    );
    // Costs of the second fit are in rows of their own.
    run("[4, 2]");
    let costs: Vec<CostRow> = rows(dir.path(), COSTS);
    let of_second: Vec<&str> = costs
        .iter()
        .filter(|c| c.fit_seed == Some(2) && c.seed == 0)
        .map(|c| c.stage.as_str())
        .collect();
    assert_eq!(of_second, ["fit", "count", "metrics"]);
}

/// Collects notes.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Reporter for Notes {
    fn begin(&self, _: &str, _: usize, _: usize, _: Option<f64>) {}
    fn progress(&self, _: usize, _: usize, _: &str) {}
    fn end(&self, _: &str, _: f64, _: Outcome<'_>) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn a_note_on_a_pending_row_names_every_row_that_it_waits_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("suite.yaml");
    let rows = "tokenizers:
  - {name: A, kind: continuous, with: {features: {kind: pixels}}}
  - {name: B, kind: continuous, with: {features: {kind: hog}}}";
    std::fs::write(&path, SUITE.replace("tokenizers:", rows)).unwrap();
    let registry = Registry::builtin();
    let mut suite = Suite::load(&path, &[], &registry).unwrap();
    suite.score_only();
    // No kind in the program uses the encoders of two rows.
    suite.rows[2].after = ["A", "B"].map(str::to_owned).into();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (stop, notes) = (AtomicBool::new(false), Notes::default());
    let cx = Context::new(&suite, &registry, &store, &notes, &stop, 2);
    run(&cx, Depth::Score, &out(dir.path())).unwrap();
    let notes = notes.0.into_inner().unwrap();
    let waits: Vec<&String> = notes
        .iter()
        .filter(|n| n.contains("stays pending"))
        .collect();
    let expected = "K stays pending: it needs the pretrained encoder of A and of B; compute it with `bench run`";
    assert_eq!(waits, [expected]);
}
