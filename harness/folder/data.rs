//! A run in memory, and the data of tables, figures, comparisons and the page.

use std::collections::BTreeMap;

use serde_json::Value;
use tessera_reports::columns::Predictor;
use tessera_reports::evaluations::{EVALUATIONS, Evaluation, PRETRAIN};
use tessera_reports::figure::{Curve, Figure};
use tessera_reports::figures::FigureData;
use tessera_reports::page::{Card, Page};
use tessera_reports::paired::compare;
use tessera_reports::recipes::Parts;
use tessera_reports::{
    Column, Comparison, CostRow, HistoryRow, MetricRow, OtherRun, Predicted, Record, TableContext,
    baseline, no_better_than_a_guess, notes, risen_rows, worse_than_a_guess,
};

use super::layout::{LABELS, METRICS, RESULTS, SKIPPED};
use crate::store::canonical;

/// Maximum number of skipped images that a footnote names.
const NAMED: usize = 10;

/// All contents of a run folder except checkpoints.
///
/// A *cell* is the index of a record. A *place* orders the stages of a cell.
#[derive(Clone, Debug, Default)]
pub struct RunData {
    /// The resolved suite.
    pub suite: Value,
    /// The text of `suite.yaml`.
    pub suite_text: String,
    /// The program and the machine.
    pub environment: Value,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Label of each validation image.
    pub labels: Vec<u32>,
    /// Images that do not decode, and why.
    pub skipped: Vec<(String, String)>,
    /// A record per tokenizer and seed.
    pub records: Vec<Record>,
    /// Metrics by cell.
    pub metrics: BTreeMap<usize, Vec<MetricRow>>,
    /// Costs by cell and place.
    pub costs: BTreeMap<(usize, usize), CostRow>,
    /// Epochs by cell and place.
    pub histories: BTreeMap<(usize, usize), Vec<HistoryRow>>,
    /// By key of the evaluation, or column of a top-5 accuracy, and cell: whether each validation image is classified correctly.
    pub right: BTreeMap<(&'static str, usize), Vec<bool>>,
    /// By cell of the first seed: the codes of the tokenizer.
    pub cards: BTreeMap<usize, Card>,
}

impl RunData {
    /// Returns the rows of `metrics.csv`.
    pub fn metric_rows(&self) -> Vec<MetricRow> {
        self.metrics.values().flatten().cloned().collect()
    }

    /// Returns each record that has rows of `metrics.csv`, with them.
    pub fn metrics_of_records(&self) -> impl Iterator<Item = (&Record, Vec<MetricRow>)> {
        let rows = self.metrics.iter();
        rows.map(|(cell, rows)| (&self.records[*cell], rows.clone()))
    }

    /// Returns the rows of `costs.csv`.
    pub fn cost_rows(&self) -> Vec<CostRow> {
        self.costs.values().cloned().collect()
    }

    /// Returns the rows of a cell's `history.csv`.
    pub fn history(&self, cell: usize) -> Vec<HistoryRow> {
        let stages = self.histories.range((cell, 0)..(cell + 1, 0));
        stages.flat_map(|(_, rows)| rows.clone()).collect()
    }

    /// Adds the predictions of a classifier (`[images, k]`, the best class first). A cell without its accuracy has none.
    ///
    /// # Errors
    /// What was found and expected, if the predictions disagree with labels or accuracy.
    pub fn enter_predictions(
        &mut self,
        evaluation: &Evaluation,
        cell: usize,
        classes: &[u32],
    ) -> Result<(), String> {
        let Some(accuracy) = evaluation.accuracy(&self.records[cell]) else {
            return Ok(());
        };
        let (images, found) = (self.labels.len(), classes.len());
        if images == 0 && found == 0 {
            return Ok(());
        }
        let columns = found.checked_div(images).unwrap_or(0);
        if columns == 0 || found != columns * images {
            return Err(format!(
                "found {found} predictions and {images} labels in {LABELS}, expected labels, and a whole number of predictions for each ({} is {accuracy} in {RESULTS})",
                evaluation.top1.name
            ));
        }
        let mut enter = |key, column: &Column, best: usize| {
            let rows = classes.chunks_exact(columns).zip(&self.labels);
            let right: Vec<bool> = rows.map(|(row, b)| row[..best].contains(b)).collect();
            let percent = 100.0 * right.iter().filter(|r| **r).count() as f64 / images as f64;
            let accuracy = self.records[cell].number(column);
            if let Some(accuracy) = accuracy.filter(|known| (percent - known).abs() >= 1e-9) {
                return Err(format!(
                    "found {percent} % by the predictions and {LABELS}, expected {accuracy} as {} in {RESULTS}",
                    column.name
                ));
            }
            self.right.insert((key, cell), right);
            Ok(())
        };
        enter(evaluation.key, &evaluation.top1, 1)?;
        if let Some(top5) = evaluation.top5.filter(|_| columns >= 5) {
            enter(top5.name, &top5, 5)?;
        }
        Ok(())
    }

    /// Returns the images that each cell classifies correctly, by evaluation; empty without labels.
    pub fn predicted(&self) -> Vec<(&'static str, Vec<Predicted>)> {
        let keys = Evaluation::compared().map(|evaluation| evaluation.key);
        keys.filter_map(|key| self.predicted_by(key)).collect()
    }

    /// Returns the images of which one of the best five classes is right, by column of the accuracy.
    pub fn predicted_top5(&self) -> Vec<(&'static str, Vec<Predicted>)> {
        let columns = Evaluation::compared().filter_map(|evaluation| evaluation.top5);
        columns
            .filter_map(|top5| self.predicted_by(top5.name))
            .collect()
    }

    fn predicted_by(&self, key: &'static str) -> Option<(&'static str, Vec<Predicted>)> {
        let cells = self.records.iter().enumerate();
        let predicted = cells.filter_map(|(cell, record)| {
            Some(Predicted {
                tokenizer: record.tokenizer.clone(),
                seed: record.seed,
                right: self.right.get(&(key, cell))?.clone(),
            })
        });
        (!self.labels.is_empty()).then(|| (key, predicted.collect()))
    }

    /// Compares every row with the baseline, image by image.
    pub fn comparisons(&self) -> Vec<Comparison> {
        self.comparisons_with(self.suite["baseline"].as_str())
    }

    /// As [`comparisons`](Self::comparisons), with the row `named` as the baseline, if the run has it.
    fn comparisons_with(&self, named: Option<&str>) -> Vec<Comparison> {
        let Some(baseline) = baseline(&self.records, named) else {
            return Vec::new();
        };
        let predicted = self.predicted().into_iter();
        predicted
            .flat_map(|(evaluation, predicted)| compare(evaluation, &predicted, &baseline))
            .collect()
    }

    /// Returns the rows and what is said of them, for a table of a run that names this baseline.
    pub fn beside(&self, named: Option<&str>) -> OtherRun {
        OtherRun {
            rows: self.records.iter().map(Record::row_id).collect(),
            comparisons: self.comparisons_with(named),
            overrides: self.overrides(),
            risen: self.risen(),
        }
    }

    /// Returns the rows whose pretraining has not lowered its loss.
    pub fn risen(&self) -> Vec<String> {
        let losses = self.losses();
        let rows = risen_rows(&losses).map(|(row, ..)| row.to_owned());
        rows.collect()
    }

    /// Returns the data of the figures.
    pub fn figure_data(&self) -> FigureData {
        FigureData {
            metrics: self.metric_rows(),
            losses: self.losses(),
            predicted: self.predicted().into_iter().collect(),
            labels: self.labels.clone(),
            classes: self.classes.clone(),
            recipes: self.recipes(),
            labelled_in_fit: self.suite["report"]["labelled_in_fit"] == true,
        }
    }

    /// Returns the recipes of the rows: those of the suite with what a row overrides.
    fn recipes(&self) -> Parts {
        let evaluations = EVALUATIONS.iter().map(|evaluation| evaluation.recipe);
        let sections = || [PRETRAIN].into_iter().chain(evaluations.clone());
        let of_row = |entry: &Value| {
            let (name, written) = (entry["name"].clone(), entry["override"].clone());
            let suite = &self.suite;
            sections().filter_map(move |section| {
                let mut recipe = suite[section].as_object()?.clone();
                recipe.extend(written[section].as_object().cloned().unwrap_or_default());
                // It changes no number.
                recipe.remove("gradient_checkpointing");
                let text = canonical(&Value::Object(recipe));
                Some(((name.as_str()?.to_owned(), section), text))
            })
        };
        let rows = self.suite["tokenizers"].as_array();
        rows.into_iter().flatten().flat_map(of_row).collect()
    }

    /// Returns the mean losses over the seeds, by stage and tokenizer in order of appearance.
    pub fn losses(&self) -> Vec<(String, Curve)> {
        // Sum and number of losses by epoch.
        type Epochs = BTreeMap<usize, (f64, usize)>;
        let mut all: Vec<((String, String), Epochs)> = Vec::new();
        for ((cell, _), rows) in &self.histories {
            let name = &self.records[*cell].tokenizer;
            // An epoch whose steps were all skipped has no loss.
            for row in rows.iter().filter(|row| row.train_loss.is_finite()) {
                let key = (row.stage.clone(), name.clone());
                let at = all.iter().position(|(k, _)| *k == key);
                let at = at.unwrap_or_else(|| {
                    all.push((key, Epochs::new()));
                    all.len() - 1
                });
                let (sum, count) = all[at].1.entry(row.epoch).or_default();
                *sum += row.train_loss;
                *count += 1;
            }
        }
        let curve = |((stage, name), epochs): ((String, String), Epochs)| {
            let mean = |(epoch, (sum, count))| (epoch as f64, sum / count as f64);
            let points = epochs.into_iter().map(mean).collect();
            (stage, Curve { name, points })
        };
        all.into_iter().map(curve).collect()
    }

    /// Returns the data of tables besides the records.
    pub fn table_context(&self, comparisons: Vec<Comparison>) -> TableContext {
        TableContext {
            baseline: self.suite["baseline"].as_str().map(str::to_owned),
            comparisons,
            metrics: self.metrics_of_records().collect(),
            overrides: self.overrides(),
            notes: self.notes(),
            ..TableContext::default()
        }
    }

    /// Returns (tokenizer, override of its recipe).
    fn overrides(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let entries = self.suite["tokenizers"].as_array();
        for entry in entries.into_iter().flatten() {
            let name = entry["name"].as_str().unwrap_or_default();
            let sections = entry["override"].as_object().into_iter().flatten();
            for (section, fields) in sections {
                for (field, value) in fields.as_object().into_iter().flatten() {
                    all.push((name.to_owned(), format!("{section}.{field} = {value}")));
                }
            }
        }
        all
    }

    /// Returns footnotes on the images and the recipe of the run.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let is_pretrained = self.records.iter().any(|r| r.pretrain_loss.is_some());
        if is_pretrained && self.suite["pretrain"]["augment"] == "fixed-view" {
            let note = "Every row was pretrained on the evaluation view and its mirror image (augment: fixed-view).";
            notes.push(note.into());
        }
        notes.extend(self.skipped_note());
        if let Some(repeated) = self.environment["images"]["val_in_train"].as_str() {
            let note = format!("{repeated} are byte for byte in the train split too.");
            notes.push(note);
        }
        if let Some(twice) = self.environment["images"]["train_twice"].as_str() {
            let note = format!("{twice} have the bytes of an earlier one.");
            notes.push(note);
        }
        if self.metrics.is_empty() && self.records.iter().any(|r| r.tcas.is_some()) {
            let note = format!(
                "The errors of the metrics are unknown, and so is whether they differ from chance: {METRICS} has no rows or is missing."
            );
            notes.push(note);
        }
        if let Some(found) = self.environment["images"]["in_two_classes"].as_str() {
            notes.push(format!(
                "Of both splits, {found} have the bytes of an image of another class."
            ));
        }
        notes.extend(worse_than_a_guess(&self.records));
        notes.extend(no_better_than_a_guess(&self.records, &self.losses()));
        notes
    }

    /// Returns the footnote on images that are left out.
    fn skipped_note(&self) -> Option<String> {
        let count = self.skipped.len();
        let names = self.skipped.iter().take(NAMED).map(|(name, _)| name);
        let list = Vec::from_iter(names.map(String::as_str)).join(", ");
        let more = if count > NAMED { ", ..." } else { "" };
        (count > 0)
            .then(|| format!("{count} images are left out: {list}{more} (reasons: {SKIPPED})."))
    }

    /// Returns `environment.json` with the day only and without the command line, so that equal results of a day give equal pages.
    fn lasting_environment(&self) -> Value {
        let mut environment = self.environment.clone();
        if let Some(fields) = environment.as_object_mut() {
            fields.remove("command");
            if let Some(Value::String(date)) = fields.get_mut("date") {
                *date = date.split('T').next().unwrap_or_default().to_owned();
            }
        }
        environment
    }

    /// Returns the HTML of the page; `files` are beside it.
    pub fn page(
        &self,
        figures: Vec<Figure>,
        predictors: Vec<Predictor>,
        files: Vec<&'static str>,
    ) -> String {
        // Without counts a card is empty.
        let cards = self.cards.values().filter(|card| card.heat.is_some());
        let page = Page {
            data: self.figure_data(),
            figures,
            predictors,
            costs: self.cost_rows(),
            cards: cards.cloned().collect(),
            environment: self.lasting_environment(),
            suite: self.suite_text.clone(),
            notes: notes(&self.records, &self.table_context(Vec::new())),
            files,
        };
        tessera_reports::page::page(&self.records, &page)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_best_five_classes_say_which_images_are_right_within_them() {
        let record = Record {
            tokenizer: "a".into(),
            lp_top1: Some(50.0),
            lp_top5: Some(50.0),
            ..Record::default()
        };
        let mut data = RunData {
            labels: vec![3, 7],
            records: vec![record],
            ..RunData::default()
        };
        let probe = Evaluation::compared().find(|evaluation| evaluation.top1.name == "lp_top1");
        let classes = [3, 1, 2, 4, 5, 1, 2, 3, 4, 5];
        data.enter_predictions(probe.unwrap(), 0, &classes).unwrap();
        let right = |all: Vec<(&str, Vec<Predicted>)>, key: &str| {
            let of = all.into_iter().find(|(name, _)| *name == key).unwrap().1;
            of.into_iter().map(|of| of.right).collect::<Vec<_>>()
        };
        assert_eq!(right(data.predicted_top5(), "lp_top5"), [[true, false]]);
        data.right.clear();
        let classes = [3, 1, 2, 4, 5, 1, 2, 7, 4, 5];
        let other = data.enter_predictions(probe.unwrap(), 0, &classes);
        let said = other.unwrap_err();
        assert!(
            said.contains("100 %") && said.contains("50 as lp_top5"),
            "{said}"
        );
        data.records[0].lp_top5 = Some(100.0);
        data.enter_predictions(probe.unwrap(), 0, &classes).unwrap();
        assert_eq!(right(data.predicted_top5(), "lp_top5"), [[true, true]]);
        assert_eq!(right(data.predicted(), probe.unwrap().key), [[true, false]]);
    }

    /// Tables of another run dropped them.
    #[test]
    fn a_run_brings_its_overrides_and_risen_losses_into_tables_of_others() {
        let epoch = |epoch, train_loss| HistoryRow {
            stage: PRETRAIN.into(),
            epoch,
            train_loss,
            ..HistoryRow::default()
        };
        let entry = json!({"name": "K", "override": {"linear_probe": {"epochs": 77}}});
        let data = RunData {
            suite: json!({"tokenizers": [entry]}),
            records: vec![Record {
                tokenizer: "K".into(),
                ..Record::default()
            }],
            histories: [((0, 0), vec![epoch(0, 1.0), epoch(1, 2.0)])].into(),
            ..RunData::default()
        };
        let run = data.beside(None);
        let said = ("K".to_owned(), "linear_probe.epochs = 77".to_owned());
        assert_eq!(
            (run.overrides, run.risen),
            (vec![said], vec!["K".to_owned()])
        );
    }
}
