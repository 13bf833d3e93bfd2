//! `comparisons.csv`: rows of a run against its baseline, image by image, from the predictions in its folder.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use tessera_reports::evaluations::Evaluation;
use tessera_reports::paired::compare;
use tessera_reports::{Comparison, Predicted, Record, to_csv};

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
    let beside = out.join(format!(".{LABELS}.tmp"));
    write_npy(&beside, &[labels.len()], labels.iter().copied())?;
    Ok(std::fs::rename(&beside, out.join(LABELS))?)
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

/// What the models of the run in `out` predict, by key of the evaluation; nothing where the folder has no labels.
pub fn predictions(out: &Path, records: &[Record]) -> Vec<(&'static str, Vec<Predicted>)> {
    let Some(labels) = read(&out.join(LABELS)) else {
        return Vec::new();
    };
    let of = |e: &Evaluation| Some((e.key, predicted(out, records, &labels, e, e.predictions?)));
    Evaluation::compared().filter_map(of).collect()
}

/// What each cell gets right; a file that is absent, or older than the cell's accuracy, is left out.
fn predicted(
    out: &Path,
    records: &[Record],
    labels: &[u32],
    evaluation: &Evaluation,
    file: &str,
) -> Vec<Predicted> {
    let cells = records.iter().zip(folders(records));
    let one = |(record, folder): (&Record, String)| {
        let ids = read(&out.join("cells").join(folder).join(file))?;
        let columns = ids.len().checked_div(labels.len()).filter(|c| *c > 0)?;
        let best = ids.chunks_exact(columns).map(|row| row[0]);
        let right: Vec<bool> = best.zip(labels).map(|(a, b)| a == *b).collect();
        let share = right.iter().filter(|r| **r).count() as f64 / right.len() as f64;
        let fits = (100.0 * share - evaluation.accuracy(record)?).abs() < 1e-9;
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
