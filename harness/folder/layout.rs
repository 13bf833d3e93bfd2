//! The names of the files in a run folder.

use std::collections::{HashMap, HashSet};

use tessera_reports::Record;

use crate::metrics::{DENSE_FILE, SPARSE_FILE};

/// One row per tokenizer and seed.
pub const RESULTS: &str = "results.csv";
/// One row per tokenizer, seed and stage: seconds and memory.
pub const COSTS: &str = "costs.csv";
/// One row per tokenizer, seed and metric.
pub const METRICS: &str = "metrics.csv";
/// One row per evaluation, tokenizer and seed: comparison with the baseline.
pub const COMPARISONS: &str = "comparisons.csv";
/// The suite with variables, sweeps and defaults filled in.
pub const SUITE: &str = "suite.yaml";
/// The program and the machine.
pub const ENVIRONMENT: &str = "environment.json";
/// Labels of the validation images in scan order, u32 `[images]`.
pub const LABELS: &str = "labels-val.npy";
/// Names of the classes, a JSON list in the order of their labels.
pub const CLASSES: &str = "classes.json";
/// Images that do not decode: path, tab, reason.
pub const SKIPPED: &str = "skipped_images.txt";
/// Digests of the files above and of those in cells that `bench report` and `bench compare` read; absent until the run ends.
pub const SUMS: &str = "SHA256SUMS";
/// The run on one page.
pub const PAGE: &str = "report.html";
/// What the runs in the folder reported, with times.
pub const LOG: &str = "log.txt";
/// The folder of the tables.
pub const TABLES: &str = "tables";
/// The folder of the figures.
pub const FIGURES: &str = "figures";
/// The correlations behind the figures.
pub const PREDICTORS: &str = "predictors.csv";
/// Contains a folder per tokenizer and seed.
pub const CELLS: &str = "cells";
/// The folder of a submission to a scheduler.
pub const SUBMIT: &str = "submit";
/// The state of a run in progress.
pub const LIVE: &str = ".live.json";

/// Held by the process that writes into the folder.
pub const LOCK: &str = ".lock";

/// All files and folders of a run folder that are not hidden.
pub const VISIBLE: &[&str] = &[
    RESULTS,
    COSTS,
    METRICS,
    COMPARISONS,
    SUITE,
    ENVIRONMENT,
    LABELS,
    CLASSES,
    SKIPPED,
    SUMS,
    PAGE,
    LOG,
    TABLES,
    FIGURES,
    CELLS,
    SUBMIT,
];

/// In a cell's folder: one row per stage and epoch.
pub const HISTORY: &str = "history.csv";
/// For TensorBoard, which looks for `tfevents` in names: `tensorboard --logdir RUN/cells`.
pub const EVENTS: &str = "events.out.tfevents.0.tessera";
/// The picture of the codebook, if it has one.
pub const CODEBOOK: &str = "codebook.png";
/// Contents of the gallery's pictures.
pub const GALLERY: &str = "gallery.json";
/// Patches of selected tokens: a row of patches per token.
pub const PATCHES: &str = "gallery.png";
/// The images of the token maps, side by side.
pub const MAPS: &str = "maps.png";

/// Files of a cell's folder that the page and the figures show, and that a run writes anew.
pub const SHOWN: [&str; 7] = [
    DENSE_FILE,
    SPARSE_FILE,
    CODEBOOK,
    GALLERY,
    PATCHES,
    MAPS,
    HISTORY,
];

/// Returns a folder name per record: `k-means-pixel-k-50-s0`. A number is added if two names differ only in punctuation.
pub fn cell_folders(records: &[Record]) -> Vec<String> {
    let (mut names, mut taken) = (Vec::new(), HashSet::new());
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for record in records {
        let letter = |c: char| match c.is_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false => '-',
        };
        let signs: String = record.tokenizer.chars().map(letter).collect();
        let words: Vec<&str> = signs.split('-').filter(|word| !word.is_empty()).collect();
        let base = format!("{}-s{}", shortened(words.join("-")), record.seed);
        let mut name = base.clone();
        // Smaller numbers of this name are taken.
        let number = numbers.entry(base.clone()).or_insert(2);
        while !taken.insert(name.clone()) {
            name = format!("{base}-{number}");
            *number += 1;
        }
        names.push(name);
    }
    names
}

/// Names of more than 200 bytes end in a digest of the whole; file systems take 255.
fn shortened(name: String) -> String {
    if name.len() <= 200 {
        return name;
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    format!(
        "{}-{}",
        &name[..name.floor_char_boundary(180)],
        &digest[..16]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty thousand rows took 10^12 comparisons.
    #[test]
    fn folders_of_equal_names_are_numbered() {
        let row = |tokenizer: &str| Record {
            tokenizer: tokenizer.into(),
            ..Record::default()
        };
        let equal = ["X", "x", "X-s0 2", "x!"].map(row).to_vec();
        assert_eq!(
            cell_folders(&equal),
            ["x-s0", "x-s0-2", "x-s0-2-s0", "x-s0-3"]
        );
        let many = cell_folders(&vec![row("x"); 20_000]);
        assert_eq!(many.last().unwrap(), "x-s0-20000");
    }
}
