//! Rows with codes of groups in a whole run: `product-kmeans` and `residual-kmeans`.

use std::path::Path;

use tessera_models::{TargetSpec, Targets};
use tessera_reports::{MetricRow, Record};
use tessera_tokenizers::{
    BuildContext, Config, Fingerprint, Grid, ImageStream, Tokenizer, TokenizerFactory, View,
    schemars,
};

use super::controls::run_rows;
use super::rows;
use crate::folder::layout::{METRICS, RESULTS};
use crate::registry::Registry;
use crate::run::Depth;

/// The codes of `product-kmeans` as ids: the joint code, or those of a group.
#[derive(Clone, Copy)]
struct Flat(Option<usize>);

type Built = tessera_tokenizers::Result<Box<dyn Tokenizer>>;

impl Flat {
    fn of(
        self,
        with: &Config,
        cx: &BuildContext<'_>,
        build: impl FnOnce(&dyn TokenizerFactory) -> Built,
    ) -> Built {
        let inner = build(cx.registry.tokenizer("product-kmeans", with)?)?;
        Ok(Box::new(FlatCodes { inner, flat: self }))
    }
}

impl TokenizerFactory for Flat {
    fn kind(&self) -> &'static str {
        ["joint", "first", "second"][self.0.map_or(0, |group| group + 1)]
    }
    fn summary(&self) -> &'static str {
        "for a test"
    }
    fn schema(&self) -> schemars::Schema {
        schemars::json_schema!({})
    }
    fn learns(&self) -> bool {
        true
    }
    fn validate(&self, _: &Config, _: &BuildContext<'_>) -> tessera_tokenizers::Result<()> {
        Ok(())
    }
    fn fit(
        &self,
        with: &Config,
        images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Built {
        self.of(with, cx, |factory| factory.fit(with, images, seed, cx))
    }
    fn load(&self, with: &Config, state: &Path, cx: &BuildContext<'_>) -> Built {
        self.of(with, cx, |factory| factory.load(with, state, cx))
    }
}

struct FlatCodes {
    inner: Box<dyn Tokenizer>,
    flat: Flat,
}

impl Tokenizer for FlatCodes {
    fn target(&self) -> TargetSpec {
        let target = self.inner.target();
        let groups = target.groups().unwrap();
        let codebook_size = match self.flat.0 {
            Some(group) => groups.sizes()[group] as usize,
            None => target.codebook_size().unwrap(),
        };
        TargetSpec::Ids { codebook_size }
    }
    fn grid(&self) -> Grid {
        self.inner.grid()
    }
    fn fingerprint(&self) -> Fingerprint {
        let inner = self.inner.fingerprint();
        Fingerprint::of(&[self.flat.kind().as_bytes(), inner.0.as_bytes()])
    }
    fn tokenize(&self, view: &View<'_>) -> tessera_tokenizers::Result<Targets> {
        let targets = self.inner.tokenize(view)?;
        let (Targets::Codes(codes, _), group) = (&targets, self.flat.0) else {
            panic!("not codes")
        };
        Ok(Targets::Ids(match group {
            Some(group) => codes.narrow(2, group, 1)?.squeeze(2)?.contiguous()?,
            None => targets.ids()?,
        }))
    }
    fn save(&self, state: &Path) -> tessera_tokenizers::Result<()> {
        self.inner.save(state)
    }
}

const PRODUCT: &str = "with: {features: {kind: pixels}, groups: 2, k: 4, epochs: 2, batch: 32}";

/// Returns the numbers of the metrics of a row's group.
fn numbers(
    metrics: &[MetricRow],
    row: &str,
    group: Option<usize>,
) -> Vec<(String, [Option<f64>; 4])> {
    let own = metrics
        .iter()
        .filter(|m| m.tokenizer == row && m.seed == 0 && m.group == group);
    let all = own.map(|m| (m.metric.clone(), [m.value, m.se, m.null_mean, m.null_se]));
    all.collect()
}

#[test]
fn metrics_of_codes_are_those_of_the_joint_code_and_of_each_group() {
    let dir = tempfile::tempdir().unwrap();
    let flat = [None, Some(0), Some(1)].map(Flat);
    let registry = flat.into_iter().fold(Registry::builtin(), Registry::with);
    let kinds = ["product-kmeans", "joint", "first", "second"];
    let all = kinds.map(|kind| format!("  - {{name: {kind}, kind: {kind}, {PRODUCT}}}"));
    let bag = "bag_of_tokens: {l2: [1.0e-3]}\n";
    let finished = run_rows(dir.path(), Depth::All, &all.join("\n"), bag, &registry);
    let records: Vec<Record> = rows(dir.path(), RESULTS);
    let errors: Vec<&str> = records.iter().map(|r| r.error.as_str()).collect();
    assert_eq!(finished.failed, 0, "{errors:?}");
    let [codes, joint, first] = [0, 2, 4].map(|at| &records[at]);
    assert_eq!(
        (codes.codebook_size, codes.code_groups.as_str()),
        (Some(16), "4 4")
    );
    assert_eq!(
        (first.codebook_size, first.code_groups.as_str()),
        (Some(4), "")
    );
    assert_eq!(
        [codes.tcas, codes.pnmi, codes.mi_left],
        [joint.tcas, joint.pnmi, joint.mi_left]
    );
    assert_eq!(
        [codes.bag_top1, codes.bag_l2],
        [joint.bag_top1, joint.bag_l2]
    );
    assert!(codes.tcas.is_some() && codes.bag_top1.is_some() && codes.knn_top1.is_some());
    // A mean over groups of four codes, and sixteen codes.
    let [mean, whole] = [codes, joint].map(|record| record.pretrain_loss.unwrap());
    assert!(mean < 0.7 * whole, "{mean} {whole}");
    let metrics: Vec<MetricRow> = rows(dir.path(), METRICS);
    for (kind, group) in [("joint", None), ("first", Some(0)), ("second", Some(1))] {
        let found = numbers(&metrics, "product-kmeans", group);
        assert!(found.len() > 15, "{kind}");
        assert_eq!(found, numbers(&metrics, kind, None), "{kind}");
    }
}

#[test]
fn residual_codes_run_with_several_fits_and_too_many_joint_codes_have_metrics_of_groups_only() {
    let dir = tempfile::tempdir().unwrap();
    let with = "with: {features: {kind: hog}, epochs: 1, batch: 32";
    let all = format!(
        "  - {{name: few, kind: residual-kmeans, {with}, levels: 2, k: 5}}}}
  - {{name: many, kind: residual-kmeans, {with}, levels: 7, k: 12}}}}"
    );
    let more = "bag_of_tokens: {l2: [1.0e-3]}\nfit_seeds: [0, 1]\n";
    let finished = run_rows(dir.path(), Depth::All, &all, more, &Registry::builtin());
    let records: Vec<Record> = rows(dir.path(), RESULTS);
    let errors: Vec<&str> = records.iter().map(|r| r.error.as_str()).collect();
    assert_eq!(finished.failed, 0, "{errors:?}");
    let (few, many) = (&records[0], &records[2]);
    assert_eq!(
        (few.codebook_size, few.code_groups.as_str()),
        (Some(25), "5 5")
    );
    assert!(few.tcas.is_some() && few.bag_top1.is_some());
    assert_eq!(
        (many.codebook_size, many.code_groups.as_str()),
        (None, "12 12 12 12 12 12 12")
    );
    assert_eq!([many.tcas, many.bag_top1, many.mi_position], [None; 3]);
    for record in &records {
        assert_eq!(record.status, "ok");
        assert!(record.pretrain_loss.unwrap().is_finite() && record.knn_top1.is_some());
    }
    let metrics: Vec<MetricRow> = rows(dir.path(), METRICS);
    // A mean over two fits, and each fit.
    for (row, groups) in [
        ("few", vec![None, Some(0), Some(1)]),
        ("many", (0..7).map(Some).collect()),
    ] {
        let own = || metrics.iter().filter(|m| m.tokenizer == row && m.seed == 0);
        let tcas = own().filter(|m| m.metric == "tcas");
        let found: Vec<Option<usize>> = tcas.clone().map(|m| m.group).collect();
        assert_eq!(found, [&groups[..]; 3].concat());
        assert!(tcas.clone().all(|m| m.value.unwrap().is_finite()));
        let fits: Vec<Option<u64>> = tcas.map(|m| m.fit_seed).collect();
        assert_eq!(fits[..groups.len()], vec![None; groups.len()]);
    }
    let page = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(page.contains("too many joint codes of groups of 12 12"));
}
