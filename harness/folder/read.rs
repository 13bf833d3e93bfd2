//! Reads a run folder. Absent files are left out; a file that exists but cannot be read, has lost its rows or disagrees with another
//! file is an error.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tessera_reports::columns::has_converged;
use tessera_reports::evaluations::Evaluation;
use tessera_reports::{CostRow, Measured, MetricRow, Record, from_csv};

use super::content::{json, text};
use super::data::RunData;
use super::layout::{
    CELLS, CLASSES, COSTS, ENVIRONMENT, HISTORY, LABELS, METRICS, RESULTS, SKIPPED, SUITE,
    cell_folders,
};
use super::sums::{self, NO_ROWS, RESTORE, lost};
use crate::npy;
use crate::suite::yaml;

mod cards;
mod metrics;

use cards::card;
pub use cards::{counts_card, enter_gallery};

fn csv<T: for<'de> serde::Deserialize<'de> + Measured>(
    path: &Path,
) -> anyhow::Result<Option<Vec<T>>> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    // This program ends every line, also the last.
    if !text.is_empty() && !text.ends_with('\n') {
        bail!(lost(path, "no line break at its end", "whole lines"));
    }
    let rows = from_csv(&text, &path.display().to_string());
    Ok(Some(rows.map_err(|e| anyhow!("{e}; {RESTORE}"))?))
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

/// Returns the numbers of a file of a run folder.
fn own_numbers(path: &Path) -> anyhow::Result<Option<Vec<u32>>> {
    numbers(path).map_err(|error| anyhow!("{error:#}; {RESTORE}"))
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
    let records: Vec<Record> = csv(path)?.ok_or_else(absent)?;
    if records.is_empty() {
        bail!(lost(path, NO_ROWS, "a row per tokenizer and seed"));
    }
    Ok(records)
}

/// Reads the records from the file `results` and the metrics and predictions from `folder`, for `bench compare`.
///
/// # Errors
/// If there are no results, or a file cannot be read or has changed since the run.
pub fn measured(folder: &Path, results: &Path) -> anyhow::Result<RunData> {
    // A file of another name is not the run's own.
    let listed = match results == folder.join(RESULTS) {
        true => sums::check(folder)?,
        false => None,
    };
    let mut data = RunData {
        labels: own_numbers(&folder.join(LABELS))?.unwrap_or_default(),
        records: records(results)?,
        ..RunData::default()
    };
    if let Some(listed) = listed {
        sums::check_all_listed(folder, &listed, &data.records)?;
    }
    check_records(&data, results)?;
    enter_fit_seeds(&mut data.records, &folder.join(SUITE))?;
    let cells = cells(&data.records);
    let path = folder.join(METRICS);
    if let Some(rows) = csv::<MetricRow>(&path)? {
        for row in rows {
            let cell = cells.of(&row.tokenizer, row.seed);
            // A file of another name may be a choice of rows.
            if cell == data.records.len() && results == folder.join(RESULTS) {
                bail!(
                    "{}: found no row of {}, seed {}, expected a row for every one that {METRICS} has; remove its rows there if you have removed it \
                     here; otherwise {RESTORE}",
                    results.display(),
                    row.tokenizer,
                    row.seed
                );
            }
            data.metrics.entry(cell).or_default().push(row);
        }
        metrics::check(&data, &path)?;
    }
    for (cell, name) in cell_folders(&data.records).iter().enumerate() {
        for evaluation in Evaluation::compared() {
            let Some(file) = evaluation.predictions else {
                continue;
            };
            let path = folder.join(CELLS).join(name).join(file);
            if let Some(classes) = own_numbers(&path)? {
                let entered = data.enter_predictions(evaluation, cell, &classes);
                entered.map_err(|found| anyhow!("{}: {found}; {RESTORE}", path.display()))?;
            }
        }
    }
    Ok(data)
}

/// Refuses two rows of one tokenizer and seed, of which only one would count, and cells that contradict others, in the file at `path`.
fn check_records(data: &RunData, path: &Path) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    for record in &data.records {
        let (row, seed) = (&record.tokenizer, record.seed);
        if !seen.insert((row, seed)) {
            let found = format!("two rows of {row}, seed {seed}");
            bail!(lost(path, &found, "one"));
        }
        let images = data.labels.len();
        let count = (images > 0 && images != record.n_val).then(|| {
            let expected = format!("{images} as in {LABELS}");
            (format!("n_val {}", record.n_val), expected)
        });
        if let Some((found, expected)) = count.or_else(|| contradiction(record)) {
            let found = format!("{found} of {row}, seed {seed}");
            bail!(lost(path, &found, &expected));
        }
    }
    Ok(())
}

/// Returns what is found and expected if a record has a word or a digest that no run writes, or cells that contradict each other.
fn contradiction(record: &Record) -> Option<(String, String)> {
    const STATUSES: [&str; 4] = ["ok", "failed", "pending", "skipped"];
    let cell = |name: &str, found: &str| format!("{name} {found:?}");
    if !STATUSES.contains(&record.status.as_str()) {
        let expected = format!("one of {}", STATUSES.join(", "));
        return Some((cell("status", &record.status), expected));
    }
    if let Some((name, text)) = broken(record) {
        return Some((cell(name, text), "a line of text".into()));
    }
    let digests = [
        ("recipe_hash", &record.recipe_hash),
        ("class_list_hash", &record.class_list_hash),
        ("dataset_fingerprint", &record.dataset_fingerprint),
        ("tokenizer_digest", &record.tokenizer_digest),
        ("encoder_digest", &record.encoder_digest),
    ];
    let is_other = |(_, digest): &&(_, &String)| !digest.chars().all(|c| c.is_ascii_hexdigit());
    if let Some((name, digest)) = digests.iter().find(is_other) {
        return Some((cell(name, digest), "hexadecimal digits, as text".into()));
    }
    let converged = record.lp_loss_fall.map(has_converged);
    let said = record.lp_converged.as_str();
    if converged.is_some_and(|is| !said.is_empty() && is != (said == "yes")) {
        let fall = record.lp_loss_fall.unwrap_or_default();
        let expected = format!("the other word beside lp_loss_fall {fall}");
        return Some((cell("lp_converged", said), expected));
    }
    if let Some(above) = above(record) {
        return Some(above);
    }
    Evaluation::compared().find_map(|evaluation| {
        let top1 = evaluation.accuracy(record)?;
        let column = evaluation.top5?;
        let top5 = record.number(&column).filter(|top5| *top5 < top1)?;
        let expected = format!("at least the {top1} of {}", evaluation.top1.name);
        Some((format!("{} {top5}", column.name), expected))
    })
}

/// Returns a name or word of a record with a line break, which could pass for another line of a report. Errors and names of files may have
/// some.
fn broken(record: &Record) -> Option<(&'static str, &str)> {
    let words = [
        ("suite", &record.suite),
        ("tokenizer", &record.tokenizer),
        ("kind", &record.kind),
        ("backbone", &record.backbone),
        ("engine", &record.engine),
        ("dtype", &record.dtype),
    ];
    let mut words = words.into_iter().map(|(name, text)| (name, text.as_str()));
    words.find(|(_, text)| text.contains(['\n', '\r']))
}

/// Returns what is found and expected if a number of a record is above the one that limits it. Older files state no classes.
fn above(record: &Record) -> Option<(String, String)> {
    let codes = ("codebook_size", record.codebook_size.unwrap_or_default());
    let classes = ("n_classes", record.n_classes);
    let images = ("n_train", record.n_train);
    let whole = |number: Option<usize>| number.map(|number| number as f64);
    [
        ("codebook_used", whole(record.codebook_used), codes),
        ("perplexity", record.perplexity, codes),
        ("eig_sq_sum", record.eig_sq_sum, classes),
        ("knn_k", whole(record.knn_k), images),
        ("rankme", record.rankme, images),
    ]
    .into_iter()
    .find_map(|(name, number, (limits, most))| {
        // RankMe adds 1e-7 to every share.
        const ROUNDING: f64 = 1e-3;
        let number = number?;
        let is_above = most > 0 && number > most as f64 * (1.0 + ROUNDING);
        is_above.then(|| {
            let expected = format!("at most the {most} of {limits}");
            (format!("{name} {number}"), expected)
        })
    })
}

/// Completes records of older run folders, which state the seed of their codebooks only in the suite.
fn enter_fit_seeds(records: &mut [Record], suite: &Path) -> anyhow::Result<()> {
    let lacks = |record: &&mut Record| record.fits() > 0 && record.fit_seeds.is_empty();
    let mut lacking = records.iter_mut().filter(lacks).peekable();
    if lacking.peek().is_none() {
        return Ok(());
    }
    let Some(text) = text(suite)? else {
        return Ok(());
    };
    let suite = parsed(&text).with_context(|| suite.display().to_string())?;
    if let Some(seed) = suite["fit_seed"].as_u64() {
        lacking.for_each(|record| record.fit_seeds = seed.to_string());
    }
    Ok(())
}

/// Parses the suite of a run folder, in which `${:-$}` before `{` stands for `$`.
///
/// # Errors
/// If it is not YAML, or has more values than a suite may have, with those of aliases.
pub fn parsed(suite: &str) -> anyhow::Result<Value> {
    yaml::value(&suite.replace("${:-$}", "$")).map_err(|wrong| anyhow!("YAML: {wrong}; {RESTORE}"))
}

/// Reads the run in `folder`.
///
/// # Errors
/// If it is not a run folder, or a file cannot be read.
pub fn whole(folder: &Path) -> anyhow::Result<RunData> {
    let file = |name: &str| folder.join(name);
    let mut data = measured(folder, &file(RESULTS))?;
    let path = file(SUITE);
    let absent = || anyhow!("{}: no such file; {RESTORE}", path.display());
    data.suite_text = text(&path)?.ok_or_else(absent)?;
    if data.suite_text.trim().is_empty() {
        bail!(lost(&path, "nothing", "the suite of the run"));
    }
    let suite = parsed(&data.suite_text);
    data.suite = suite.with_context(|| path.display().to_string())?;
    let (name, expected) = (data.suite["name"].as_str(), &data.records[0].suite);
    if !data.suite_text.ends_with('\n') || name != Some(expected) {
        let found = match (data.suite_text.ends_with('\n'), name) {
            (false, _) => "no line break at its end".to_owned(),
            (true, None) => "no `name`".to_owned(),
            (true, Some(name)) => format!("the suite {name:?}"),
        };
        bail!(lost(
            &path,
            &found,
            &format!("the whole suite {expected:?} of {RESULTS}")
        ));
    }
    data.environment = json(&file(ENVIRONMENT))?.unwrap_or_default();
    data.classes = json(&file(CLASSES))?.unwrap_or_default();
    let classes = data.classes.len();
    let is_other = |r: &&Record| ![0, classes].contains(&r.n_classes) && classes > 0;
    if let Some(record) = data.records.iter().find(is_other) {
        let Record {
            tokenizer: row,
            seed,
            n_classes,
            ..
        } = record;
        let found = format!("n_classes {n_classes} of {row}, seed {seed}");
        bail!(lost(
            &file(RESULTS),
            &found,
            &format!("{classes} as in {CLASSES}")
        ));
    }
    if let Some(skipped) = text(&file(SKIPPED))? {
        data.skipped = left_out(&skipped, &data.records, &file(SKIPPED))?;
    }
    let cells = cells(&data.records);
    let costs: Vec<CostRow> = csv(&file(COSTS))?.unwrap_or_default();
    for (place, row) in costs.into_iter().enumerate() {
        let cell = cells.of(&row.tokenizer, row.seed);
        data.costs.insert((cell, place), row);
    }
    for (cell, name) in cell_folders(&data.records).iter().enumerate() {
        let folder = file(CELLS).join(name);
        let path = folder.join(HISTORY);
        let history: Option<Vec<_>> = csv(&path)?;
        if history.as_ref().is_some_and(Vec::is_empty) {
            bail!(lost(&path, NO_ROWS, "a row per epoch"));
        }
        data.histories
            .insert((cell, 0), history.unwrap_or_default());
        let tokenizer = &data.records[cell].tokenizer;
        if !data.cards.values().any(|card| card.name == *tokenizer)
            && let Some(card) = card(&data.records[cell], &folder)?
        {
            data.cards.insert(cell, card);
        }
    }
    Ok(data)
}

/// Returns names and reasons of the images that are left out, from the text of the file `skipped_images.txt` at `path`.
fn left_out(text: &str, records: &[Record], path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let lines = text.lines().map(|l| l.split_once('\t').unwrap_or((l, "")));
    let lines = lines.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
    let images: Vec<_> = lines.collect();
    let is_count = |record: &Record| record.skipped_images == images.len();
    if !records.iter().any(is_count) {
        let expected = format!(
            "the {} that {RESULTS} has left out",
            records[0].skipped_images
        );
        bail!(lost(path, &format!("{} images", images.len()), &expected));
    }
    Ok(images)
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

#[cfg(test)]
mod tests;
