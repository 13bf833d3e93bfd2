//! Reads a run folder. Absent files are left out; a file that exists but cannot be read is an error.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use tessera_reports::evaluations::Evaluation;
use tessera_reports::page::Card;
use tessera_reports::{CostRow, MetricRow, Record, from_csv};

use super::data::RunData;
use super::layout::{
    CELLS, CLASSES, CODEBOOK, COSTS, ENVIRONMENT, GALLERY, HISTORY, LABELS, MAPS, METRICS, PATCHES,
    RESULTS, SKIPPED, SUITE, cell_folders,
};
use crate::metrics::Table;
use crate::npy;

/// Returns the bytes of a file; `None` if it does not exist.
///
/// # Errors
/// If it exists but cannot be read.
pub fn bytes(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn text(path: &Path) -> anyhow::Result<Option<String>> {
    let text = bytes(path)?.map(String::from_utf8).transpose();
    text.with_context(|| path.display().to_string())
}

fn csv<T: for<'de> serde::Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = text(path)?;
    let rows = text.map(|text| from_csv(&text, &path.display().to_string()));
    Ok(rows.transpose()?.unwrap_or_default())
}

/// Returns the numbers of an `.npy` file of u32; `None` if it does not exist.
///
/// # Errors
/// If it exists but is not such a file.
pub fn numbers(path: &Path) -> anyhow::Result<Option<Vec<u32>>> {
    let file = match npy::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file,
    };
    let numbers = file.and_then(npyz::NpyFile::into_vec);
    numbers
        .map(Some)
        .with_context(|| path.display().to_string())
}

/// Returns the records of the file `results.csv` at `path`.
///
/// # Errors
/// If it does not exist or cannot be read.
pub fn records(path: &Path) -> anyhow::Result<Vec<Record>> {
    let absent = || {
        let path = path.display();
        anyhow!(
            "{path}: no such file; expected a run folder that `bench run` wrote, or its {RESULTS}"
        )
    };
    let text = text(path)?.ok_or_else(absent)?;
    Ok(from_csv(&text, &path.display().to_string())?)
}

/// Reads the records from the file `results` and the metrics and predictions from `folder`, for `bench compare`.
///
/// # Errors
/// If there are no results, or a file cannot be read.
pub fn measured(folder: &Path, results: &Path) -> anyhow::Result<RunData> {
    let mut data = RunData {
        labels: numbers(&folder.join(LABELS))?.unwrap_or_default(),
        records: records(results)?,
        ..RunData::default()
    };
    let cells = cells(&data.records);
    for row in csv::<MetricRow>(&folder.join(METRICS))? {
        let cell = cells.of(&row.tokenizer, row.seed);
        data.metrics.entry(cell).or_default().push(row);
    }
    for (cell, name) in cell_folders(&data.records).iter().enumerate() {
        for evaluation in Evaluation::compared() {
            let Some(file) = evaluation.predictions else {
                continue;
            };
            let path = folder.join(CELLS).join(name).join(file);
            if let Some(classes) = numbers(&path)? {
                data.enter_predictions(evaluation, cell, &classes);
            }
        }
    }
    Ok(data)
}

/// Reads the run in `folder`.
///
/// # Errors
/// If it is not a run folder, or a file cannot be read.
pub fn whole(folder: &Path) -> anyhow::Result<RunData> {
    let file = |name: &str| folder.join(name);
    let mut data = measured(folder, &file(RESULTS))?;
    let suite = fs::read_to_string(file(SUITE));
    data.suite_text = suite.with_context(|| file(SUITE).display().to_string())?;
    let suite = serde_yaml::from_str(&data.suite_text);
    data.suite = suite.with_context(|| file(SUITE).display().to_string())?;
    if let Some(text) = bytes(&file(ENVIRONMENT))? {
        data.environment = json(&text, ENVIRONMENT)?;
    }
    if let Some(text) = bytes(&file(CLASSES))? {
        data.classes = json(&text, CLASSES)?;
    }
    let skipped = text(&file(SKIPPED))?.unwrap_or_default();
    let lines = skipped
        .lines()
        .map(|l| l.split_once('\t').unwrap_or((l, "")));
    let lines = lines.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
    data.skipped = lines.collect();
    let cells = cells(&data.records);
    for (place, row) in csv::<CostRow>(&file(COSTS))?.into_iter().enumerate() {
        let cell = cells.of(&row.tokenizer, row.seed);
        data.costs.insert((cell, place), row);
    }
    for (cell, name) in cell_folders(&data.records).iter().enumerate() {
        let folder = file(CELLS).join(name);
        let history = csv(&folder.join(HISTORY))?;
        data.histories.insert((cell, 0), history);
        let tokenizer = &data.records[cell].tokenizer;
        if !data.cards.values().any(|card| card.name == *tokenizer)
            && let Some(card) = card(tokenizer, &folder)?
        {
            data.cards.insert(cell, card);
        }
    }
    Ok(data)
}

/// Indices of records by tokenizer and seed; the first of equal ones counts.
struct Cells<'a>(HashMap<(&'a str, u64), usize>, usize);

fn cells(records: &[Record]) -> Cells<'_> {
    let mut indices = HashMap::new();
    for (cell, record) in records.iter().enumerate() {
        let key = (record.tokenizer.as_str(), record.seed);
        indices.entry(key).or_insert(cell);
    }
    Cells(indices, records.len())
}

impl Cells<'_> {
    /// Returns the number of records if there is none of this tokenizer and seed.
    fn of(&self, tokenizer: &str, seed: u64) -> usize {
        self.0.get(&(tokenizer, seed)).copied().unwrap_or(self.1)
    }
}

fn json<T: for<'de> serde::Deserialize<'de>>(text: &[u8], name: &str) -> anyhow::Result<T> {
    serde_json::from_slice(text).with_context(|| name.to_owned())
}

/// Reads a tokenizer's card from a folder; `None` without counts.
fn card(name: &str, folder: &Path) -> anyhow::Result<Option<Card>> {
    let Some(mut card) = counts_card(name, folder)? else {
        return Ok(None);
    };
    enter_gallery(&mut card, folder)?;
    card.codebook = bytes(&folder.join(CODEBOOK))?.unwrap_or_default();
    Ok(Some(card))
}

/// Computes usage and classes of the codes from the counts in a folder; `None` without counts.
///
/// # Errors
/// If they cannot be read.
pub fn counts_card(name: &str, folder: &Path) -> anyhow::Result<Option<Card>> {
    let mut table = match Table::load(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        table => table.with_context(|| folder.display().to_string())?,
    };
    let classes = table.num_classes;
    let card = Card::of_counts(name, classes, |take| {
        table.each_row(|code, row| {
            take(code, row);
            Ok(())
        })
    });
    card.map(Some).with_context(|| folder.display().to_string())
}

/// Adds the gallery of a folder to a card, if there is one.
///
/// # Errors
/// If it cannot be read.
pub fn enter_gallery(card: &mut Card, folder: &Path) -> anyhow::Result<()> {
    let about = bytes(&folder.join(GALLERY))?;
    card.gallery = about.map(|text| json(&text, GALLERY)).transpose()?;
    card.picture = bytes(&folder.join(PATCHES))?.unwrap_or_default();
    card.maps = bytes(&folder.join(MAPS))?.unwrap_or_default();
    Ok(())
}
