//! `figures/`: what the run folder's files look like drawn.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tessera_reports::columns::Predictor;
use tessera_reports::figure::{Curve, Figure};
use tessera_reports::figures::{FigureData, figures};
use tessera_reports::{HistoryRow, MetricRow, Record, from_csv, to_csv};

use super::compare;
use super::output::METRICS;
use super::results::folders;
use crate::store::write_atomic;

/// Names of the classes, a JSON list in the order of their labels.
pub const CLASSES: &str = "classes.json";
/// The folder of the figures.
pub const FIGURES: &str = "figures";

/// What the figures of the run in `out` are drawn from; what is absent is left out.
pub fn data(out: &Path, records: &[Record]) -> FigureData {
    let text = |name: &str| fs::read_to_string(out.join(name)).ok();
    let metrics = text(METRICS).and_then(|text| from_csv::<MetricRow>(&text, METRICS).ok());
    let classes = text(CLASSES).and_then(|text| serde_json::from_str(&text).ok());
    FigureData {
        metrics: metrics.unwrap_or_default(),
        losses: losses(out, records),
        predicted: compare::predictions(out, records).into_iter().collect(),
        labels: compare::labels(out),
        classes: classes.unwrap_or_default(),
    }
}

/// Mean losses over the seeds, by stage and tokenizer in order of appearance.
fn losses(out: &Path, records: &[Record]) -> Vec<(String, Curve)> {
    // Sum and number of losses by epoch.
    type Epochs = BTreeMap<usize, (f64, usize)>;
    let mut all: Vec<((String, String), Epochs)> = Vec::new();
    for (record, folder) in records.iter().zip(folders(records)) {
        let path = out.join("cells").join(folder).join("history.csv");
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let lines = from_csv::<HistoryRow>(&text, "history.csv").unwrap_or_default();
        // An epoch whose steps were all skipped has no loss.
        for line in lines.into_iter().filter(|line| line.train_loss.is_finite()) {
            let key = (line.stage, record.tokenizer.clone());
            let at = all.iter().position(|(k, _)| *k == key);
            let at = at.unwrap_or_else(|| {
                all.push((key, Epochs::new()));
                all.len() - 1
            });
            let (sum, count) = all[at].1.entry(line.epoch).or_default();
            *sum += line.train_loss;
            *count += 1;
        }
    }
    let curve = |((stage, name), epochs): ((String, String), Epochs)| {
        let points = epochs.into_iter();
        let points = points.map(|(epoch, (sum, count))| (epoch as f64, sum / count as f64));
        let points = points.collect();
        (stage, Curve { name, points })
    };
    all.into_iter().map(curve).collect()
}

/// What was drawn, and the correlations behind it.
pub type Drawn = (Vec<Figure>, Vec<Predictor>);

/// Draws and writes the figures of a run.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_figures(out: &Path, records: &[Record], data: &FigureData) -> anyhow::Result<Drawn> {
    let (drawn, predictors) = figures(records, data);
    let folder = out.join(FIGURES);
    forget(&folder);
    if !drawn.is_empty() {
        save(&folder, &drawn)?;
    }
    if !predictors.is_empty() {
        write_atomic(
            &folder.join("predictors.csv"),
            to_csv(&predictors)?.as_bytes(),
        )?;
    }
    Ok((drawn, predictors))
}

/// Removes what an earlier report drew: nothing old stands beside what is new.
fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = path
            .extension()
            .is_some_and(|e| e == "svg" || e == "png" || e == "csv");
        if ours {
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes each figure as SVG and PNG into `folder`; the paths.
///
/// # Errors
/// When the folder cannot be written.
pub fn save(folder: &Path, figures: &[Figure]) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut paths = Vec::new();
    for figure in figures {
        let files = figure.files()?;
        let (svg, png) = (
            folder.join(format!("{}.svg", figure.name)),
            folder.join(format!("{}.png", figure.name)),
        );
        write_atomic(&svg, files.svg.as_bytes())?;
        write_atomic(&png, &files.png)?;
        paths.extend([svg, png]);
    }
    Ok(paths)
}
