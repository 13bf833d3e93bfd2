//! The controls `oracle` and `random` in a whole run, and who receives labels.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Tensor};
use serde_json::json;
use tessera_models::{TargetSpec, Targets};
use tessera_reports::{MetricRow, Record};
use tessera_tokenizers::{
    BuildContext, Config, Fingerprint, Grid, Needs, Tokenizer, TokenizerFactory, View, schemars,
};

use super::{SUITE, out, rows, run};
use crate::folder::layout::{METRICS, RESULTS};
use crate::registry::Registry;
use crate::run::{Depth, Finished};
use crate::stages::common::context::Context;
use crate::stages::common::reporter::Silent;
use crate::store::Store;
use crate::suite::Suite;

/// Runs the small suite with other rows and `more` fields.
pub(super) fn run_rows(
    dir: &Path,
    depth: Depth,
    rows: &str,
    more: &str,
    registry: &Registry,
) -> Finished {
    let path = dir.join("suite.yaml");
    let kmeans = SUITE.lines().find(|line| line.contains("kmeans")).unwrap();
    std::fs::write(&path, SUITE.replace(kmeans, rows) + more).unwrap();
    let suite = Suite::load(&path, &[], registry).unwrap();
    let store = Store::open(&dir.join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let cx = Context::new(&suite, registry, &store, &Silent, &stop, 2);
    run(&cx, depth, &out(dir)).unwrap()
}

const CONTROLS: &str = "  - {name: oracle, kind: oracle}
  - {name: patch, kind: random, with: {codebook_size: 12}}
  - {name: position, kind: random, with: {codebook_size: 12, per: position}}
  - {name: image, kind: random, with: {codebook_size: 12, per: image}}";

#[test]
fn the_oracle_has_a_tcas_of_zero_and_random_ids_have_that_of_permuted_labels() {
    let dir = tempfile::tempdir().unwrap();
    let finished = run_rows(dir.path(), Depth::All, CONTROLS, "", &Registry::builtin());
    assert_eq!(finished.failed, 0);
    let records: Vec<Record> = rows(dir.path(), RESULTS);
    for record in &records {
        assert_eq!(record.status, "ok", "{}", record.tokenizer);
        assert!(record.pretrain_loss.unwrap().is_finite() && record.knn_top1.is_some());
        assert_eq!(record.saw_labels, record.tokenizer == "oracle");
    }
    let oracle = &records[0];
    assert_eq!((oracle.codebook_size, oracle.n_classes), (Some(10), 10));
    assert!(oracle.tcas.unwrap().abs() < 1e-12, "{:?}", oracle.tcas);
    assert!((oracle.pnmi.unwrap() - 1.0).abs() < 1e-12);
    let metrics: Vec<MetricRow> = rows(dir.path(), METRICS);
    for name in ["patch", "position", "image"] {
        let row = |m: &&MetricRow| m.tokenizer == name && m.metric == "tcas";
        let tcas = metrics.iter().find(row).unwrap();
        let above = tcas.value.unwrap() - tcas.null_mean.unwrap();
        let error = tcas.se.unwrap().hypot(tcas.null_se.unwrap());
        assert!(above.abs() < 2.0 * error, "{name}: {above} {error}");
    }
}

/// A kind that checks whether it receives labels.
struct Curious {
    needs: Needs,
}

impl TokenizerFactory for Curious {
    fn kind(&self) -> &'static str {
        "curious"
    }
    fn summary(&self) -> &'static str {
        "for a test"
    }
    fn schema(&self) -> schemars::Schema {
        json!({}).try_into().unwrap()
    }
    fn needs(&self) -> Needs {
        self.needs
    }
    fn validate(&self, _: &Config, cx: &BuildContext<'_>) -> tessera_tokenizers::Result<()> {
        assert!(cx.labels.is_none(), "no image is scanned");
        Ok(())
    }
    fn build(
        &self,
        _: &Config,
        cx: &BuildContext<'_>,
    ) -> tessera_tokenizers::Result<Box<dyn Tokenizer>> {
        let scanned = cx.images.is_some();
        let expected = scanned && self.needs == Needs::Labels;
        assert_eq!(cx.labels.is_some(), expected);
        Ok(Box::new(Silenced { grid: cx.grid }))
    }
}

/// Its facts do not say that it received labels.
struct Silenced {
    grid: Grid,
}

impl Tokenizer for Silenced {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids { codebook_size: 1 }
    }
    fn grid(&self) -> Grid {
        self.grid
    }
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[b"silenced"])
    }
    fn tokenize(&self, view: &View<'_>) -> tessera_tokenizers::Result<Targets> {
        let shape = (view.batch(), self.grid.num_patches());
        let ids = Tensor::zeros(shape, DType::U32, &candle_core::Device::Cpu)?;
        Ok(Targets::Ids(ids))
    }
}

#[test]
fn only_a_kind_that_declares_it_receives_labels_and_its_facts_must_say_so() {
    for (needs, expected) in [(Needs::Pixels, "ok"), (Needs::Labels, "failed")] {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::builtin().with(Curious { needs });
        let row = "  - {name: C, kind: curious}";
        run_rows(dir.path(), Depth::Score, row, "", &registry);
        let records: Vec<Record> = rows(dir.path(), RESULTS);
        assert_eq!(records[0].status, expected, "{}", records[0].error);
        assert_eq!(
            records[0].error.contains("saw_labels"),
            expected == "failed"
        );
    }
}
