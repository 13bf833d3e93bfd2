//! The run folder's results: a projection of the store, rewritten whole after every stage.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use tessera_models::EpochRecord;
use tessera_reports::evaluations::Evaluation;
use tessera_reports::tensorboard::{Scalar, events};
use tessera_reports::{CostRow, HistoryRow, MetricRow, Record, to_csv};
use tessera_tokenizers::Fingerprint;

use super::output;
use crate::metrics::{DENSE_FILE, Estimate, SPARSE_FILE};
use crate::plan::graph::Node;
use crate::plan::walk::{Walk, Watch};
use crate::stages::common::context::{Context, Images};
use crate::stages::common::stage::{Done, Product};
use crate::stages::{fit, gallery, of_seed};
use crate::store::{Entry, canonical, write_atomic};
use crate::suite::Row;

/// For TensorBoard, which looks for `tfevents` in names: `tensorboard --logdir RUN/cells`.
const EVENTS: &str = "events.out.tfevents.0.tessera";

fn scalars(rows: &[HistoryRow]) -> Vec<Scalar> {
    let both = rows.iter().flat_map(|row| {
        [("loss", row.train_loss), ("lr", row.lr)].map(|(what, value)| Scalar {
            tag: format!("{}/{what}", row.stage),
            step: row.epoch as u64,
            value: value as f32,
        })
    });
    // An epoch whose steps were all skipped has no loss.
    both.filter(|scalar| scalar.value.is_finite()).collect()
}

/// Records of every row and seed, row by row.
pub struct Board<'a> {
    cx: &'a Context<'a>,
    out: &'a Path,
    records: Vec<Record>,
    /// Results that a cell still lacks before it is whole.
    lacking: Vec<usize>,
    metrics: BTreeMap<usize, (usize, Vec<Estimate>)>,
    history: BTreeMap<(usize, usize), (&'static str, Vec<EpochRecord>)>,
    costs: BTreeMap<(usize, usize), (&'static str, Entry)>,
    folders: Vec<String>,
}

/// A walk that nobody follows.
pub struct Ignored;

impl Watch for Ignored {
    fn done(&mut self, _: &Node<'_>, _: &Done<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn failed(&mut self, _: &Node<'_>, _: &str) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<'a> Board<'a> {
    /// Every cell pending or skipped.
    pub fn new(cx: &'a Context<'a>, images: &Images, walk: &Walk<'_>, out: &'a Path) -> Self {
        let rows = cx.suite.rows.iter();
        let cells = rows.flat_map(|row| cx.suite.file.seeds.iter().map(move |seed| (row, *seed)));
        let records: Vec<Record> = cells
            .map(|(row, seed)| pending(cx, images, row, seed))
            .collect();
        let mut board = Self {
            cx,
            out,
            folders: folders(&records),
            lacking: vec![0; records.len()],
            records,
            metrics: BTreeMap::new(),
            history: BTreeMap::new(),
            costs: BTreeMap::new(),
        };
        for (node, _) in walk
            .graph
            .nodes
            .iter()
            .zip(&walk.wanted)
            .filter(|(_, w)| **w)
        {
            if !node.stage.is_optional() {
                let cells = board.cells(node);
                cells.for_each(|at| board.lacking[at] += 1);
            }
        }
        board.settle();
        board
    }

    /// Removes from the cells what is drawn or listed from a stage, so that nothing old is shown beside new results; what the
    /// store has comes back with the first pass. Checkpoints and predictions stay.
    pub fn forget_shown(&self) {
        let shown = [
            DENSE_FILE,
            SPARSE_FILE,
            fit::PICTURE,
            gallery::ABOUT,
            gallery::PICTURE,
            gallery::MAPS_PICTURE,
            "history.csv",
            EVENTS,
        ];
        for folder in &self.folders {
            for name in shown {
                let _ = fs::remove_file(self.out.join("cells").join(folder).join(name));
            }
        }
    }

    /// All records so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Number of failed cells.
    pub fn failed(&self) -> usize {
        self.records
            .iter()
            .filter(|record| record.status == "failed")
            .count()
    }

    /// Positions of the records that a node belongs to; none of a row that is not selected.
    fn cells(&self, node: &Node<'_>) -> Range<usize> {
        let (rows, seeds) = (&self.cx.suite.rows, &self.cx.suite.file.seeds);
        let Some(row) = rows.iter().position(|row| row.name == node.row.name) else {
            return 0..0;
        };
        let first = row * seeds.len();
        match node
            .seed
            .and_then(|seed| seeds.iter().position(|s| *s == seed))
        {
            Some(s) => first + s..first + s + 1,
            None => first..first + seeds.len(),
        }
    }

    /// Marks the cells that have all that was wanted.
    fn settle(&mut self) {
        for (record, lacking) in self.records.iter_mut().zip(&self.lacking) {
            if record.status == "pending" && *lacking == 0 {
                record.status = "ok".into();
            }
        }
    }

    /// Enters a stage's result into one cell.
    fn enter(&mut self, at: usize, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        let stage = node.stage.as_ref();
        let record = &mut self.records[at];
        stage.record(done, record)?;
        let images = record.n_train;
        match &done.product {
            Product::Metrics(estimates) => {
                self.metrics.insert(at, (images, estimates.clone()));
            }
            Product::Tokenizer(tokenizer) => {
                if let Some(png) = fit::picture(tokenizer.as_ref()) {
                    write_atomic(&self.folder(at)?.join(fit::PICTURE), &png)?;
                }
            }
            _ => (),
        }
        let Some(entry) = &done.entry else {
            return Ok(());
        };
        let record = &mut self.records[at];
        let _ = record.set(&format!("{}_seconds", stage.name()), Some(entry.seconds));
        self.costs
            .insert((at, node.at), (stage.name(), entry.clone()));
        self.link(at, &entry.dir, stage.outputs())?;
        if let Some(evaluation) = Evaluation::of_stage(stage.name()) {
            evaluation.take(&mut self.records[at], |field| done.number(field))?;
            self.link(at, &entry.dir, evaluation.predictions.as_slice())?;
        }
        if let Some(history) = entry.result.get("history") {
            let history = serde_json::from_value(history.clone())?;
            self.history.insert((at, node.at), (stage.name(), history));
            self.write_history(at)?;
        }
        Ok(())
    }

    fn cost_rows(&self) -> Vec<CostRow> {
        let row = |((at, _), (stage, entry)): (&(usize, usize), &(&str, Entry))| CostRow {
            tokenizer: self.records[*at].tokenizer.clone(),
            seed: self.records[*at].seed,
            stage: (*stage).to_owned(),
            seconds: entry.seconds,
            peak_mib: entry.peak_bytes.map(|b| b as f64 / f64::from(1 << 20)),
            key: entry.key.clone(),
        };
        self.costs.iter().map(row).collect()
    }

    /// Writes `results.csv`, `metrics.csv` and `costs.csv`.
    ///
    /// # Errors
    /// When the run folder cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let write = |name: &str, text: String| write_atomic(&self.out.join(name), text.as_bytes());
        write(output::RESULTS, to_csv(&self.records)?)?;
        write(output::METRICS, to_csv(&self.metric_rows())?)?;
        write(output::COSTS, to_csv(&self.cost_rows())?)?;
        Ok(())
    }

    fn metric_rows(&self) -> Vec<MetricRow> {
        let rows = self.metrics.iter().flat_map(|(at, (images, estimates))| {
            let record = &self.records[*at];
            estimates.iter().map(move |estimate| MetricRow {
                tokenizer: record.tokenizer.clone(),
                seed: record.seed,
                metric: estimate.metric.clone(),
                value: estimate.value,
                se: estimate.se,
                null_mean: estimate.null_mean,
                null_se: estimate.null_se,
                n_images: *images,
            })
        });
        rows.collect()
    }

    fn write_history(&self, at: usize) -> anyhow::Result<()> {
        let folder = self.folder(at)?;
        let mut rows = Vec::new();
        for (_, (stage, history)) in self.history.range((at, 0)..(at + 1, 0)) {
            for epoch in history {
                rows.push(HistoryRow {
                    stage: (*stage).to_owned(),
                    epoch: epoch.epoch,
                    lr: epoch.lr,
                    train_loss: epoch.train_loss,
                    skipped_steps: epoch.skipped_steps,
                });
            }
        }
        write_atomic(&folder.join("history.csv"), to_csv(&rows)?.as_bytes())?;
        write_atomic(&folder.join(EVENTS), &events(&scalars(&rows)))?;
        Ok(())
    }

    /// The cell's folder, made.
    fn folder(&self, at: usize) -> anyhow::Result<PathBuf> {
        let folder = self.out.join("cells").join(&self.folders[at]);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    /// Shows files of a store entry in the cell's folder: a hard link, or a copy where the file system has none.
    fn link(&self, at: usize, dir: &Path, names: &[&str]) -> anyhow::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let folder = self.folder(at)?;
        for name in names {
            let (from, to) = (dir.join(name), folder.join(name));
            if !from.exists() {
                continue;
            }
            let beside = folder.join(format!(".{name}.tmp-{}", std::process::id()));
            let _ = fs::remove_file(&beside);
            if fs::hard_link(&from, &beside).is_err() {
                fs::copy(&from, &beside).with_context(|| beside.display().to_string())?;
            }
            fs::rename(&beside, &to).with_context(|| to.display().to_string())?;
            // Renaming a link onto another link of the same file does nothing, and leaves both.
            let _ = fs::remove_file(&beside);
        }
        Ok(())
    }
}

impl Watch for Board<'_> {
    fn done(&mut self, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        for at in self.cells(node) {
            self.enter(at, node, done)?;
            if !node.stage.is_optional() {
                self.lacking[at] = self.lacking[at].saturating_sub(1);
            }
        }
        self.settle();
        self.write()
    }

    fn failed(&mut self, node: &Node<'_>, error: &str) -> anyhow::Result<()> {
        for at in self.cells(node) {
            self.records[at].status = "failed".into();
            self.records[at].error = error.to_owned();
        }
        self.write()
    }

    fn waits(&mut self, node: &Node<'_>, other: &Node<'_>) {
        let (name, other) = (&node.row.name, &other.row.name);
        self.cx.reporter.note(&format!(
            "{name} is left pending: it needs the pretrained encoder of {other}, which `bench run` makes"
        ));
    }
}

/// A cell before its first stage.
fn pending(cx: &Context<'_>, images: &Images, row: &Row, seed: u64) -> Record {
    let (file, scan) = (&cx.suite.file, &images.scan);
    let mut record = Record {
        suite: file.name.clone(),
        tokenizer: row.name.clone(),
        kind: row.kind().to_owned(),
        dataset: scan.name.clone(),
        image_size: file.image_size,
        patch_size: file.patch_size,
        backbone: file.backbone.variant.clone(),
        seed,
        n_train: scan.train.len(),
        n_val: scan.val.len(),
        skipped_images: scan.skipped.len(),
        class_list_hash: scan.class_list_hash.clone(),
        n_classes: scan.classes.len(),
        recipe_hash: recipe_hash(cx, row),
        encoder: encoder(row).into(),
        device: cx.compute.kind().into(),
        dtype: cx.compute.precision().name().into(),
        status: if row.skip.is_some() {
            "skipped"
        } else {
            "pending"
        }
        .into(),
        error: row.skip.clone().unwrap_or_default(),
        ..Record::default()
    };
    for stage in of_seed(row, seed) {
        stage.describe(&mut record);
    }
    record
}

/// Where the encoder comes from that is evaluated.
fn encoder(row: &Row) -> &'static str {
    match (&row.checkpoint, &row.tokenizer) {
        (Some(_), _) => "imported",
        (None, None) => "random",
        (None, Some(_)) if row.is_pretrained() => "pretrained",
        (None, Some(_)) => "",
    }
}

/// 16 hex digits over everything but the tokenizer, the images and the seed: equal hashes mean comparable accuracies.
fn recipe_hash(cx: &Context<'_>, row: &Row) -> String {
    let file = &cx.suite.file;
    let recipe = json!({
        "recipes": row.recipes,
        "backbone": file.backbone,
        "image_size": file.image_size,
        "patch_size": file.patch_size,
        "eval_transform": file.eval_transform,
    });
    Fingerprint::of(&[canonical(&recipe).as_bytes()]).0[..16].to_owned()
}

/// A folder name per cell: `k-means-pixel-k-50-s0`; a number is added where two names differ only in signs.
pub fn folders(records: &[Record]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in records {
        let signs: String = record
            .tokenizer
            .chars()
            .map(|c| {
                if c.is_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        let words: Vec<&str> = signs.split('-').filter(|word| !word.is_empty()).collect();
        let base = format!("{}-s{}", words.join("-"), record.seed);
        let mut name = base.clone();
        let mut number = 2;
        while names.contains(&name) {
            name = format!("{base}-{number}");
            number += 1;
        }
        names.push(name);
    }
    names
}
