//! `comparisons.csv`: rows of a run against its baseline, image by image, from the predictions in its folder.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context as _;
use tessera_models::files;
use tessera_reports::paired::compare;
use tessera_reports::record::to_csv;
use tessera_reports::{Comparison, Predicted, Record};

use super::results::folders;
use crate::data::Dataset;
use crate::metrics::write_npy;
use crate::store::write_atomic;
use tessera_tokenizers::Split;

/// Labels of the validation images in scan order, u32 `[images]`.
pub const LABELS: &str = "labels-val.npy";
/// One line per row, evaluation and seed.
pub const COMPARISONS: &str = "comparisons.csv";

/// Writes the validation labels, which predictions are held against.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_labels(out: &Path, dataset: &Dataset) -> anyhow::Result<()> {
    let labels = dataset.labels(Split::Val);
    let path = out.join(LABELS);
    let beside = files::beside(&path);
    let written = write_npy(&beside, &[labels.len()], labels.iter().copied());
    let written = written.and_then(|()| std::fs::rename(&beside, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written.with_context(|| path.display().to_string())
}

/// Compares the rows of the run in `out` and writes what comes out; nothing where there is nothing to compare.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_comparisons(out: &Path, records: &[Record]) -> anyhow::Result<Vec<Comparison>> {
    let mut all = Vec::new();
    if let Some(baseline) = tessera_reports::baseline(records) {
        for (evaluation, predicted) in predictions(out, records) {
            all.extend(compare(evaluation, &predicted, &baseline));
        }
    }
    let path = out.join(COMPARISONS);
    if all.is_empty() {
        let _ = std::fs::remove_file(path);
    } else {
        write_atomic(&path, to_csv(&all)?.as_bytes())?;
    }
    Ok(all)
}

/// The labels of the validation images, none where the folder does not say.
pub fn labels(out: &Path) -> Vec<u32> {
    read(&out.join(LABELS)).unwrap_or_default()
}

/// What the models of the run in `out` predict, `lp` and `ft`; nothing where the folder has no labels.
pub fn predictions(out: &Path, records: &[Record]) -> Vec<(&'static str, Vec<Predicted>)> {
    let Some(labels) = read(&out.join(LABELS)) else {
        return Vec::new();
    };
    let of = |(evaluation, file, accuracy): &(&'static str, &str, Accuracy)| {
        (
            *evaluation,
            predicted(out, records, &labels, file, *accuracy),
        )
    };
    EVALUATIONS.iter().map(of).collect()
}

type Accuracy = fn(&Record) -> Option<f64>;

const EVALUATIONS: &[(&str, &str, Accuracy)] = &[
    ("lp", "predictions-probe.npy", |r| r.lp_top1),
    ("ft", "predictions-finetune.npy", |r| r.ft_top1),
];

/// What each cell gets right; a file that is absent, or older than the cell's accuracy, is left out.
fn predicted(
    out: &Path,
    records: &[Record],
    labels: &[u32],
    file: &str,
    accuracy: Accuracy,
) -> Vec<Predicted> {
    let cells = records.iter().zip(folders(records));
    let one = |(record, folder): (&Record, String)| {
        let ids = read(&out.join("cells").join(folder).join(file))?;
        let columns = ids.len().checked_div(labels.len()).filter(|c| *c > 0)?;
        let best = ids.chunks_exact(columns).map(|row| row[0]);
        let right: Vec<bool> = best.zip(labels).map(|(a, b)| a == *b).collect();
        let share = right.iter().filter(|r| **r).count() as f64 / right.len() as f64;
        let fits = (100.0 * share - accuracy(record)?).abs() < 1e-9;
        fits.then(|| Predicted {
            tokenizer: record.tokenizer.clone(),
            seed: record.seed,
            right,
        })
    };
    cells.filter_map(one).collect()
}

fn read(path: &Path) -> Option<Vec<u32>> {
    let file = File::open(path).ok()?;
    npyz::NpyFile::new(BufReader::new(file))
        .ok()?
        .into_vec()
        .ok()
}
