//! The run folder's results: a projection of the store, rewritten whole after every stage.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use tessera_models::EpochRecord;
use tessera_reports::evaluations::Evaluation;
use tessera_reports::tensorboard::{Scalar, events};
use tessera_reports::{CostRow, HistoryRow, MetricRow, Record, to_csv};
use tessera_tokenizers::Fingerprint;

use super::cell::{Scored, Trained};
use super::context::{Context, Images, Mode, StageError};
use super::output;
use super::stages::fit::{self, Fitted};
use super::stages::{gallery, pretrain};
use crate::metrics::{DENSE_FILE, Estimate, SPARSE_FILE};
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
    out: Option<&'a Path>,
    records: Vec<Record>,
    metrics: BTreeMap<usize, (usize, Vec<Estimate>)>,
    history: BTreeMap<(usize, &'static str), Vec<EpochRecord>>,
    found: BTreeMap<(usize, Option<usize>), Vec<&'static str>>,
    /// Of each record, by stage in the order in which they ran.
    costs: BTreeMap<usize, Vec<(&'static str, Entry)>>,
    folders: Vec<String>,
}

impl<'a> Board<'a> {
    /// Every cell pending or skipped. Without `out` nothing is written.
    pub fn new(cx: &'a Context<'a>, images: &Images, out: Option<&'a Path>) -> Self {
        let cells = cx
            .suite
            .rows
            .iter()
            .flat_map(|row| cx.suite.file.seeds.iter().map(move |seed| (row, *seed)));
        let records: Vec<Record> = cells
            .map(|(row, seed)| pending(cx, images, row, seed))
            .collect();
        Self {
            cx,
            out,
            folders: folders(&records),
            records,
            metrics: BTreeMap::new(),
            history: BTreeMap::new(),
            found: BTreeMap::new(),
            costs: BTreeMap::new(),
        }
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
        let Some(out) = self.out else { return };
        for folder in &self.folders {
            for name in shown {
                let _ = fs::remove_file(out.join("cells").join(folder).join(name));
            }
        }
    }

    /// All records so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Number of failed cells.
    pub fn failed(&self) -> usize {
        let failed = self.records.iter().filter(|r| r.status == "failed");
        failed.count()
    }

    /// The stages that have a result, of a row or of a row and the `s`-th seed.
    pub fn found(&self, row: usize, s: Option<usize>) -> Vec<&'static str> {
        self.found.get(&(row, s)).cloned().unwrap_or_default()
    }

    fn seeds(&self) -> usize {
        self.cx.suite.file.seeds.len()
    }

    /// Positions of a row's records, or of one of them.
    fn cells(&self, row: usize, s: Option<usize>) -> std::ops::Range<usize> {
        let first = row * self.seeds();
        match s {
            Some(s) => first + s..first + s + 1,
            None => first..first + self.seeds(),
        }
    }

    /// Takes what a row gave before training.
    ///
    /// # Errors
    /// When the run folder cannot be written.
    pub fn scored(&mut self, row: usize, piece: Scored<'_>) -> anyhow::Result<()> {
        let stage = match &piece {
            Scored::Fitted(_) => "fit",
            Scored::Counted(_) => "count",
            Scored::Metrics(_) => "metrics",
            Scored::Gallery(_) => "gallery",
        };
        let fresh = self.note(row, None, stage);
        for at in self.cells(row, None) {
            match &piece {
                Scored::Fitted(fitted) => {
                    take_fitted(&mut self.records[at], fitted);
                    if let Some(entry) = &fitted.entry {
                        self.spent(at, "fit", entry);
                        self.link(at, &entry.dir, &["codebook.safetensors"])?;
                    }
                    if let (Some(folder), Some(png)) = (self.folder(at)?, fitted.picture()) {
                        write_atomic(&folder.join(fit::PICTURE), &png)?;
                    }
                }
                Scored::Counted(entry) => {
                    self.spent(at, "count", entry);
                    self.link(at, &entry.dir, &[DENSE_FILE, SPARSE_FILE])?;
                }
                Scored::Gallery(entry) => {
                    let files = [gallery::ABOUT, gallery::PICTURE, gallery::MAPS_PICTURE];
                    self.link(at, &entry.dir, &files)?;
                }
                Scored::Metrics(estimates) => {
                    self.records[at].tcas_sharp_t = Some(self.cx.suite.file.metrics.tcas_sharp_t);
                    take_metrics(&mut self.records[at], estimates)?;
                    let images = self.records[at].n_train;
                    self.metrics.insert(at, (images, estimates.to_vec()));
                }
            }
        }
        if fresh { self.write() } else { Ok(()) }
    }

    /// Takes what a trained cell gave.
    ///
    /// # Errors
    /// When the run folder cannot be written.
    pub fn trained(
        &mut self,
        row: usize,
        s: usize,
        (which, entry): (Trained, &Entry),
    ) -> anyhow::Result<()> {
        let fresh = self.note(row, Some(s), which.name());
        let at = self.cells(row, Some(s)).start;
        self.spent(at, which.name(), entry);
        let number = |field: &str| entry.result.get(field).and_then(Value::as_f64);
        let record = &mut self.records[at];
        let files: &[&str] = match which {
            Trained::Import => &[pretrain::ENCODER],
            Trained::Pretrain => {
                record.pretrain_loss = number("loss");
                &[pretrain::CHECKPOINT, pretrain::ENCODER]
            }
            Trained::Knn => &[],
            Trained::Probe => &["probe.safetensors"],
            Trained::Finetune => &["finetuned.safetensors"],
        };
        let evaluation = Evaluation::of_stage(which.name());
        if let Some(evaluation) = evaluation {
            evaluation.take(record, number)?;
        }
        let predictions = evaluation.and_then(|e| e.predictions);
        self.link(at, &entry.dir, files)?;
        self.link(at, &entry.dir, predictions.as_slice())?;
        if let Some(history) = entry.result.get("history") {
            self.history
                .insert((at, which.name()), serde_json::from_value(history.clone())?);
            self.write_history(at)?;
        }
        if fresh { self.write() } else { Ok(()) }
    }

    /// Remembers what a stage cost; its seconds also in its column of `results.csv`, where there is one.
    fn spent(&mut self, at: usize, stage: &'static str, entry: &Entry) {
        let _ = self.records[at].set(&format!("{stage}_seconds"), Some(entry.seconds));
        let costs = self.costs.entry(at).or_default();
        costs.retain(|(other, _)| *other != stage);
        costs.push((stage, entry.clone()));
    }

    fn cost_rows(&self) -> Vec<CostRow> {
        let rows = self.costs.iter().flat_map(|(at, costs)| {
            let record = &self.records[*at];
            costs.iter().map(|(stage, entry)| CostRow {
                tokenizer: record.tokenizer.clone(),
                seed: record.seed,
                stage: (*stage).to_owned(),
                seconds: entry.seconds,
                peak_mib: entry.peak_bytes.map(|b| b as f64 / f64::from(1 << 20)),
                key: entry.key.clone(),
            })
        });
        rows.collect()
    }

    /// Remembers that a stage has a result; whether that is news.
    fn note(&mut self, row: usize, s: Option<usize>, stage: &'static str) -> bool {
        let found = self.found.entry((row, s)).or_default();
        let news = !found.contains(&stage);
        if news {
            found.push(stage);
        }
        news
    }

    /// Marks cells that have all that was asked for.
    ///
    /// # Errors
    /// When the run folder cannot be written.
    pub fn done(&mut self, row: usize, s: Option<usize>) -> anyhow::Result<()> {
        for at in self.cells(row, s) {
            if self.records[at].status == "pending" {
                self.records[at].status = "ok".into();
            }
        }
        self.write()
    }

    /// Sorts out how stages ended: the value, `None` for a failed cell (noted, unless only looked up).
    ///
    /// # Errors
    /// What ends the whole run.
    pub fn settle<T>(
        &mut self,
        row: usize,
        s: Option<usize>,
        mode: Mode,
        ended: Result<T, StageError>,
    ) -> anyhow::Result<Option<T>> {
        match ended {
            Ok(value) => Ok(Some(value)),
            Err(StageError::Failed(error)) => {
                if mode == Mode::Compute {
                    for at in self.cells(row, s) {
                        self.records[at].status = "failed".into();
                        self.records[at].error = error.clone();
                    }
                    self.write()?;
                }
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Writes `results.csv`, `metrics.csv` and `costs.csv`.
    ///
    /// # Errors
    /// When the run folder cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let Some(out) = self.out else {
            return Ok(());
        };
        write_atomic(
            &out.join(output::RESULTS),
            to_csv(&self.records)?.as_bytes(),
        )?;
        write_atomic(
            &out.join(output::METRICS),
            to_csv(&self.metric_rows())?.as_bytes(),
        )?;
        write_atomic(
            &out.join(output::COSTS),
            to_csv(&self.cost_rows())?.as_bytes(),
        )?;
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
        let Some(folder) = self.folder(at)? else {
            return Ok(());
        };
        let mut rows = Vec::new();
        for stage in ["pretrain", "probe", "finetune"] {
            for epoch in self.history.get(&(at, stage)).into_iter().flatten() {
                rows.push(HistoryRow {
                    stage: stage.to_owned(),
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
    fn folder(&self, at: usize) -> anyhow::Result<Option<PathBuf>> {
        let Some(out) = self.out else {
            return Ok(None);
        };
        let folder = out.join("cells").join(&self.folders[at]);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Some(folder))
    }

    /// Shows files of a store entry in the cell's folder: a hard link, or a copy where the file system has none.
    fn link(&self, at: usize, dir: &Path, names: &[&str]) -> anyhow::Result<()> {
        let Some(folder) = self.folder(at)? else {
            return Ok(());
        };
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

/// A cell before its first stage.
fn pending(cx: &Context<'_>, images: &Images, row: &Row, seed: u64) -> Record {
    let (file, scan) = (&cx.suite.file, &images.scan);
    let recipes = &row.recipes;
    let pooling =
        |pooling: Option<crate::suite::Pooling>| pooling.map_or("", |p| p.name()).to_owned();
    let pretrained = recipes.pretrain.as_ref().filter(|_| row.is_pretrained());
    Record {
        suite: file.name.clone(),
        tokenizer: row.name.clone(),
        kind: row.kind().to_owned(),
        dataset: scan.name.clone(),
        image_size: file.image_size,
        patch_size: file.patch_size,
        backbone: file.backbone.variant.clone(),
        seed,
        pretrain_epochs: pretrained.map(|p| p.epochs),
        knn_k: recipes.knn.as_ref().map(|k| k.k),
        pooling_lp: pooling(recipes.linear_probe.as_ref().map(|p| p.pooling)),
        pooling_ft: pooling(recipes.fine_tune.as_ref().map(|f| f.pooling)),
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
    }
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

fn take_fitted(record: &mut Record, fitted: &Fitted) {
    let facts = fitted.tokenizer.facts();
    record.codebook_size = fitted.tokenizer.target().codebook_size();
    record.kmeans_epochs = facts.kmeans_epochs;
    record.saw_labels = facts.saw_labels;
    record.engine = facts.engine.unwrap_or_default();
}

/// Every metric goes into the column of its name, its null into `NAME_null` where there is one.
fn take_metrics(record: &mut Record, estimates: &[Estimate]) -> anyhow::Result<()> {
    for estimate in estimates {
        record.set(&estimate.metric, estimate.value)?;
        let _ = record.set(&format!("{}_null", estimate.metric), estimate.null_mean);
    }
    Ok(())
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
