//! Collects the results of a walk in memory and writes them into the run folder after every stage.

mod origin;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use tessera_models::EpochRecord;
use tessera_reports::evaluations::Evaluation;
use tessera_reports::evaluations::PRETRAIN;
use tessera_reports::page::Card;
use tessera_reports::{CostRow, HistoryRow, MetricRow, Record};
use tessera_tokenizers::Split;

use super::environment;
use crate::folder::data::RunData;
use crate::folder::earlier::Earlier;
use crate::folder::held::RunFolder;
use crate::folder::layout::{CODEBOOK, GALLERY};
use crate::folder::read;
use crate::folder::write::Writer;
use crate::metrics::{Estimate, over_fits};
use crate::plan::graph::{Graph, Node, Part};
use crate::plan::walk::Watch;
use crate::stages::common::context::{Context, Images};
use crate::stages::common::stage::{Done, Product};
use crate::stages::common::targets::picture;
use crate::stages::{fit_seeds, metrics, of_seed};
use crate::store::Entry;
use crate::suite::{Row, expand};
use waiting::Waiting;

/// Receives the events of a walk and holds the data of the run.
pub struct Board<'a> {
    cx: &'a Context<'a>,
    /// Results so far.
    pub data: RunData,
    writer: Writer<'a>,
    /// Whether stored results are looked up, so that files of the whole run can be written.
    is_known: bool,
    /// Rows of the run folder.
    rows: Vec<&'a Row>,
    /// Covered nodes whose results each cell lacks.
    waiting: Vec<Waiting>,
    /// Nodes with results.
    computed: BTreeSet<usize>,
    /// Metrics by cell and index of the fit.
    fits: BTreeMap<usize, BTreeMap<usize, Vec<Estimate>>>,
}

impl<'a> Board<'a> {
    /// Creates a board whose cells are pending or skipped. A cell is pending while it lacks a node of `graph` that `covered` selects.
    ///
    /// # Errors
    /// If the suite cannot be written as YAML.
    pub fn new(
        cx: &'a Context<'a>,
        images: &Images,
        (graph, covered): (&Graph<'_>, &dyn Fn(&Node<'_>) -> bool),
        out: &'a RunFolder,
    ) -> anyhow::Result<Self> {
        let rows = cx.suite.shown();
        let data = before(cx, images, &rows, out.path())?;
        let mut board = Self {
            cx,
            rows,
            writer: Writer::new(out, &data.records)?,
            is_known: false,
            waiting: vec![Waiting::default(); data.records.len()],
            computed: BTreeSet::new(),
            fits: BTreeMap::new(),
            data,
        };
        for node in &graph.nodes {
            if covered(node) && !node.stage.is_optional() {
                for cell in board.cells(node) {
                    board.waiting[cell].add(node, graph);
                    board.enter_machine(cell, node);
                }
            }
        }
        board.settle();
        Ok(board)
    }

    /// Writes the files that do not depend on stages, and the stored results. Removes what the folder has of an earlier run, `earlier`, with
    /// other keys.
    ///
    /// # Errors
    /// If the run folder cannot be written.
    pub fn write_about(&mut self, earlier: &Earlier) -> anyhow::Result<()> {
        self.is_known = true;
        (self.writer).remove_replaced(earlier, &self.data, self.cx.store)?;
        self.writer.about(&self.data)?;
        self.write()
    }

    /// Writes `results.csv`, `metrics.csv` and `costs.csv`, but not before all stored results are known: a run that ends before that would leave
    /// finished rows as pending.
    ///
    /// # Errors
    /// If the run folder cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        match self.is_known {
            true => self.writer.results(&self.data),
            false => Ok(()),
        }
    }

    /// Returns the number of failed cells.
    pub fn failed(&self) -> usize {
        let records = self.data.records.iter();
        records.filter(|record| record.status == "failed").count()
    }

    /// Returns the number of cells without something on which no number depends.
    pub fn incomplete(&self) -> usize {
        let records = self.data.records.iter();
        let has = |record: &&Record| record.status == "ok" && !record.error.is_empty();
        records.filter(has).count()
    }

    /// Returns the cells of a node; none if the run folder does not have its row.
    fn cells(&self, node: &Node<'_>) -> Range<usize> {
        let seeds = &self.cx.suite.file.seeds;
        let Some(row) = self.rows.iter().position(|row| row.name == node.row.name) else {
            return 0..0;
        };
        let first = row * seeds.len();
        let Part::Seed(seed) = node.part else {
            return first..first + seeds.len();
        };
        match seeds.iter().position(|s| *s == seed) {
            Some(s) => first + s..first + s + 1,
            None => 0..0,
        }
    }

    /// Returns whether a cell has its row's first seed, which the cards of the page show.
    fn has_first_seed(&self, cell: usize) -> bool {
        cell.is_multiple_of(self.cx.suite.file.seeds.len())
    }

    /// Says what the cell of a row's first seed takes from checkpoints, a line each.
    fn checkpoints(&self, cell: usize) -> Vec<String> {
        let record = &self.data.records[cell];
        let all = record.checkpoints().filter(|_| self.has_first_seed(cell));
        all.map(|(what, taken)| format!("{}: {what} of {taken}", record.tokenizer))
            .collect()
    }

    /// Settles pending cells. A kept row that is wrong has no nodes.
    fn settle(&mut self) {
        let seeds = self.cx.suite.file.seeds.len();
        let cells = self.data.records.iter_mut().zip(&mut self.waiting);
        for (cell, (record, waiting)) in cells.enumerate() {
            if record.status == "pending" && self.rows[cell / seeds].skip.is_none() {
                waiting.settle(record, &self.computed);
            }
        }
    }

    /// Enters why cells that have not failed lack something on which no number depends.
    fn note(&mut self, node: &Node<'_>, error: &str) {
        for cell in self.cells(node) {
            let record = &mut self.data.records[cell];
            if record.status != "failed" {
                record.error = error.to_owned();
            }
        }
    }

    /// Writes a stage's result into a cell. The files of the cell are those of the first fit.
    fn enter(&mut self, cell: usize, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        let fit = match node.part {
            Part::Fit(fit) => fit,
            Part::Seed(_) => 0,
        };
        if fit == 0 {
            let before = self.checkpoints(cell);
            node.stage.record(done, &mut self.data.records[cell])?;
            origin::enter(&mut self.data.records[cell], done)?;
            let mut lines = self.checkpoints(cell);
            lines.retain(|line| node.selected && !before.contains(line));
            lines.iter().for_each(|line| self.cx.reporter.note(line));
        }
        if let Product::Metrics(estimates) = &done.product {
            self.enter_metrics(cell, node, (fit, estimates))?;
        }
        if fit > 0 {
            if let Some(entry) = &done.entry {
                self.enter_cost(cell, node, entry);
            }
            return Ok(());
        }
        if let Some(entry) = &done.entry {
            self.enter_entry(cell, node, entry)?;
        }
        self.enter_picture(cell, done)?;
        if self.has_first_seed(cell) {
            self.enter_card(cell, node, done)?;
        }
        Ok(())
    }

    /// Writes the metrics of a fit, and their means over the fits that have results. The means come first.
    fn enter_metrics(
        &mut self,
        cell: usize,
        node: &Node<'_>,
        (fit, estimates): (usize, &[Estimate]),
    ) -> anyhow::Result<()> {
        let seeds = fit_seeds(self.cx, node.row);
        let fits = self.fits.entry(cell).or_default();
        fits.insert(fit, estimates.to_vec());
        let record = &mut self.data.records[cell];
        let mut rows = Vec::new();
        if fits.len() > 1 {
            let all: Vec<&[Estimate]> = fits.values().map(Vec::as_slice).collect();
            let means = over_fits(&all);
            metrics::enter(&means, record)?;
            rows.extend(means.iter().map(|mean| metric_row(record, None, mean)));
        }
        for (fit, estimates) in fits.iter() {
            let seed = seeds.get(*fit).copied();
            rows.extend(estimates.iter().map(|one| metric_row(record, seed, one)));
        }
        // A pending cell may lack fits.
        record.fit_seeds = words(fits.keys().filter_map(|fit| seeds.get(*fit)));
        self.data.metrics.insert(cell, rows);
        Ok(())
    }

    fn enter_cost(&mut self, cell: usize, node: &Node<'_>, entry: &Entry) {
        let fit_seed = match node.part {
            Part::Fit(fit) if fit > 0 => self.cx.suite.fit_seeds.get(fit).copied(),
            _ => None,
        };
        let record = &self.data.records[cell];
        let cost = CostRow {
            tokenizer: record.tokenizer.clone(),
            seed: record.seed,
            stage: node.stage.name().to_owned(),
            seconds: entry.seconds,
            peak_mib: entry.peak_bytes.map(|b| b as f64 / f64::from(1 << 20)),
            key: entry.key.clone(),
            fit_seed,
        };
        self.data.costs.insert((cell, node.at), cost);
    }

    /// Writes where a model is computed, if the stage has one.
    fn enter_machine(&mut self, cell: usize, node: &Node<'_>) {
        let stage = node.stage.name();
        if stage == PRETRAIN || Evaluation::of_stage(stage).is_some_and(|e| e.of_encoder) {
            let (machine, record) = (self.cx.machine(), &mut self.data.records[cell]);
            (record.device, record.dtype) = (machine.device.into(), machine.dtype.into());
        }
    }

    /// Writes cost, files, accuracies, predictions and epochs of a stage, if it has them.
    fn enter_entry(&mut self, cell: usize, node: &Node<'_>, entry: &Entry) -> anyhow::Result<()> {
        let stage = node.stage.name();
        self.enter_cost(cell, node, entry);
        self.enter_machine(cell, node);
        let data = &mut self.data;
        data.records[cell].set_if_known(&format!("{stage}_seconds"), Some(entry.seconds))?;
        for name in node.stage.outputs() {
            self.writer.link(cell, entry, name)?;
        }
        if let Some(evaluation) = Evaluation::of_stage(stage) {
            let number = |field: &str| entry.result.get(field)?.as_f64();
            evaluation.take(&mut data.records[cell], number)?;
            if let Some(name) = evaluation.predictions.filter(|name| entry.has(name)) {
                let classes = read::numbers(&entry.file(name)?)?;
                let entered =
                    data.enter_predictions(evaluation, cell, &classes.unwrap_or_default());
                if let Err(found) = entered {
                    let row = &node.row.name;
                    self.cx
                        .reporter
                        .note(&format!("{row}, {name}: {found}; it is not compared"));
                }
                self.writer.link(cell, entry, name)?;
            }
        }
        if let Some(history) = entry.result.get("history") {
            let epochs: Vec<EpochRecord> = serde_json::from_value(history.clone())?;
            let rows = epochs.iter().map(|epoch| history_row(stage, epoch));
            let at = (cell, node.at);
            self.data.histories.insert(at, rows.collect());
            self.writer.history(cell, &self.data)?;
        }
        Ok(())
    }

    /// Writes the picture of a codebook.
    fn enter_picture(&mut self, cell: usize, done: &Done<'_>) -> anyhow::Result<()> {
        if let Product::Tokenizer(tokenizer) = &done.product
            && let Some(png) = picture(tokenizer.as_ref())
        {
            self.writer.file(cell, CODEBOOK, &png)?;
            if self.has_first_seed(cell) {
                self.data.cards.entry(cell).or_default().codebook = png;
            }
        }
        Ok(())
    }

    /// Writes the page's data about the codes.
    fn enter_card(&mut self, cell: usize, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        let (outputs, Some(entry)) = (node.stage.outputs(), &done.entry) else {
            return Ok(());
        };
        let is_gallery = outputs.contains(&GALLERY);
        if !is_gallery && !matches!(done.product, Product::Counts(_)) {
            return Ok(());
        }
        for name in outputs.iter().filter(|name| entry.has(name)) {
            entry.file(name)?;
        }
        let card = self.data.cards.entry(cell).or_default();
        if let Product::Counts(entry) = &done.product
            && let Some(counted) = read::counts_card(&node.row.name, None, &entry.dir)?
        {
            let (name, usage, heat) = (counted.name, counted.usage, counted.heat);
            *card = Card {
                name,
                usage,
                heat,
                ..std::mem::take(card)
            };
        }
        if is_gallery {
            read::enter_gallery(card, &entry.dir)?;
        }
        Ok(())
    }
}

impl Watch for Board<'_> {
    fn done(&mut self, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        for cell in self.cells(node) {
            self.enter(cell, node, done)?;
            self.waiting[cell].remove(node.at);
        }
        self.computed.insert(node.at);
        if node.stage.is_optional() {
            self.note(node, "");
        }
        self.settle();
        self.write()
    }

    fn failed(&mut self, node: &Node<'_>, error: &str) -> anyhow::Result<()> {
        if node.stage.is_optional() {
            // The next result is written with it, if the folder can be written.
            self.note(node, &format!("no {}: {error}", node.stage.name()));
            return Ok(());
        }
        for cell in self.cells(node) {
            let record = &mut self.data.records[cell];
            self.waiting[cell].forget(record);
            record.status = "failed".into();
            let error = match node.part {
                Part::Fit(fit) if fit > 0 => {
                    format!("fit seed {}: {error}", self.cx.suite.fit_seeds[fit])
                }
                _ => error.to_owned(),
            };
            if record.error.is_empty() {
                record.error = error;
            } else if !record.error.contains(&error) {
                record.error = format!("{}; {}: {error}", record.error, node.stage.name());
            }
        }
        self.write()
    }

    fn waits(&mut self, node: &Node<'_>, others: &[&str]) {
        // Further fits wait for the same rows.
        if matches!(node.part, Part::Fit(fit) if fit > 0) {
            return;
        }
        let (name, others) = (&node.row.name, others.join(" and of "));
        self.cx.reporter.note(&format!(
            "{name} stays pending: it needs the pretrained encoder of {others}; compute it with `bench run`"
        ));
    }
}

fn metric_row(record: &Record, fit_seed: Option<u64>, estimate: &Estimate) -> MetricRow {
    MetricRow {
        tokenizer: record.tokenizer.clone(),
        seed: record.seed,
        metric: estimate.metric.clone(),
        value: estimate.value,
        se: estimate.se,
        null_mean: estimate.null_mean,
        null_se: estimate.null_se,
        n_images: record.n_train,
        fit_seed,
        group: estimate.group,
    }
}

fn history_row(stage: &str, epoch: &EpochRecord) -> HistoryRow {
    HistoryRow {
        stage: stage.to_owned(),
        epoch: epoch.epoch,
        lr: epoch.lr,
        train_loss: epoch.train_loss,
        skipped_steps: epoch.skipped_steps,
    }
}

/// Returns the data of a run before its first stage.
fn before(cx: &Context<'_>, images: &Images, rows: &[&Row], out: &Path) -> anyhow::Result<RunData> {
    let suite = cx.suite.resolved_in(out);
    let seeds = || cx.suite.file.seeds.iter();
    let cells = rows
        .iter()
        .flat_map(|row| seeds().map(move |seed| (*row, *seed)));
    let skipped = images.scan.omitted.images.iter();
    let mut environment = environment::about(cx);
    environment["images"] = environment::about_images(&images.scan);
    Ok(RunData {
        suite_text: format!(
            "# {} with variables, sweeps and defaults filled in.\n{}",
            cx.suite.file.name,
            serde_yaml::to_string(&expand::literal(&suite))?
        ),
        environment,
        classes: images.scan.classes.clone(),
        labels: images.dataset.labels(Split::Val).to_vec(),
        skipped: skipped
            .map(|image| (image.name.clone(), image.reason.to_string()))
            .collect(),
        records: cells
            .map(|(row, seed)| Record {
                fields: origin::fields(&suite, row),
                ..pending(cx, images, row, seed)
            })
            .collect(),
        suite,
        ..RunData::default()
    })
}

fn words<'s>(seeds: impl IntoIterator<Item = &'s u64>) -> String {
    let words: Vec<String> = seeds.into_iter().map(u64::to_string).collect();
    words.join(" ")
}

/// Returns the record of a cell before its first stage.
fn pending(cx: &Context<'_>, images: &Images, row: &Row, seed: u64) -> Record {
    let (file, scan) = (&cx.suite.file, &images.scan);
    let status = match row.skip {
        // A kept row whose check fails is not skipped by the suite.
        Some(_) if row.optional => "skipped",
        _ => "pending",
    };
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
        skipped_images: scan.omitted.images.len(),
        class_list_hash: scan.class_list_hash.clone(),
        dataset_fingerprint: scan.fingerprint.0.clone(),
        n_classes: scan.classes.len(),
        recipe_hash: origin::recipe_hash(cx, row),
        status: status.into(),
        error: row.skip.clone().unwrap_or_default(),
        fit_seeds: words(fit_seeds(cx, row)),
        ..Record::default()
    };
    for stage in of_seed(row, seed) {
        stage.describe(&mut record);
    }
    record
}
