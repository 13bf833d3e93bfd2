//! The run folder's files about the run, and its tables.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tessera_reports::{Record, TableContext, from_csv};

use super::{Context, Images, compare, environment, figures, page};
use crate::store::write_atomic;

/// One row per cell and seed.
pub const RESULTS: &str = "results.csv";
/// One row per cell, seed and stage: seconds and memory.
pub const COSTS: &str = "costs.csv";
/// One row per cell, seed and metric.
pub const METRICS: &str = "metrics.csv";
pub(super) const SUITE: &str = "suite.yaml";
/// Images that do not decode: path, tab, reason.
const SKIPPED: &str = "skipped_images.txt";
pub(super) const ENVIRONMENT: &str = "environment.json";

/// Makes the run folder, and refuses one that holds something else.
///
/// # Errors
/// When it cannot be written, or has files but no results.
pub fn prepare_output(out: &Path) -> anyhow::Result<()> {
    let remedy = || {
        format!(
            "{}: give a folder that can be written with --out",
            out.display()
        )
    };
    fs::create_dir_all(out).with_context(remedy)?;
    let foreign = fs::read_dir(out)
        .with_context(remedy)?
        .flatten()
        .map(|e| e.file_name())
        .find(|name| {
            let name = name.to_string_lossy();
            !(name.starts_with('.')
                || [
                    RESULTS,
                    METRICS,
                    COSTS,
                    SUITE,
                    ENVIRONMENT,
                    "tables",
                    "cells",
                    compare::LABELS,
                    compare::COMPARISONS,
                    figures::CLASSES,
                    figures::FIGURES,
                    page::PAGE,
                    SKIPPED,
                ]
                .contains(&name.as_ref()))
        });
    if let Some(name) = foreign.filter(|_| !out.join(RESULTS).exists()) {
        bail!(
            "{} holds {:?} and no {RESULTS}, so it is no run folder; give an empty or a new one with --out",
            out.display(),
            name.to_string_lossy()
        );
    }
    let probe = out.join(format!(".write-test-{}", std::process::id()));
    fs::write(&probe, b"").with_context(remedy)?;
    fs::remove_file(&probe).with_context(remedy)
}

/// Writes `suite.yaml` (resolved), `environment.json`, the validation labels, the classes, and `skipped_images.txt` when there are any.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_about(cx: &Context<'_>, images: &Images, out: &Path) -> anyhow::Result<()> {
    let suite = serde_yaml::to_string(&cx.suite.resolved)?;
    let text = format!(
        "# {} with variables, sweeps and defaults filled in.\n{suite}",
        cx.suite.file.name
    );
    write_atomic(&out.join(SUITE), text.as_bytes())?;
    let about = format!("{:#}\n", environment::about(cx));
    write_atomic(&out.join(ENVIRONMENT), about.as_bytes())?;
    compare::write_labels(out, &images.dataset)?;
    let classes = serde_json::to_string(&images.scan.classes)?;
    write_atomic(&out.join(figures::CLASSES), classes.as_bytes())?;
    let skipped = images.scan.skipped.iter();
    let lines: String = skipped
        .map(|image| format!("{}\t{}\n", image.name, image.reason))
        .collect();
    let path = out.join(SKIPPED);
    if lines.is_empty() {
        let _ = fs::remove_file(path);
    } else {
        write_atomic(&path, lines.as_bytes())?;
    }
    Ok(())
}

/// Writes `comparisons.csv` and `tables/table*.csv|md|tex`; the tables' paths.
///
/// # Errors
/// When the folder cannot be written or there is no such table.
pub fn write_tables(
    out: &Path,
    suite: &Value,
    records: &[Record],
    tables: &[u32],
) -> anyhow::Result<Vec<PathBuf>> {
    tables_of(out, suite, records, records, tables)
}

/// The tables of `records`, in the folder of the run whose own ones are `own`.
fn tables_of(
    out: &Path,
    suite: &Value,
    own: &[Record],
    records: &[Record],
    tables: &[u32],
) -> anyhow::Result<Vec<PathBuf>> {
    let folder = out.join("tables");
    let mut cx = table_context(suite);
    cx.notes.extend(skipped_note(out));
    cx.comparisons = compare::write_comparisons(out, own)?;
    let mut files = Vec::new();
    for number in tables {
        let rendered = tessera_reports::render(*number, records, &cx)?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for (extension, text) in [
            ("csv", &rendered.csv),
            ("md", &rendered.markdown),
            ("tex", &rendered.latex),
        ] {
            let path = folder.join(format!("table{number}.{extension}"));
            write_atomic(&path, text.as_bytes())?;
            files.push(path);
        }
    }
    Ok(files)
}

fn records_of(run: &Path) -> anyhow::Result<Vec<Record>> {
    let path = run.join(RESULTS);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{}: give the folder that `bench run` wrote", path.display()))?;
    Ok(from_csv(&text, &path.display().to_string())?)
}

/// Writes what is drawn from a run: `figures/` and `report.html`.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_drawn(out: &Path, suite: &Value, records: &[Record]) -> anyhow::Result<()> {
    let data = figures::data(out, records);
    let drawn = figures::write_figures(out, records, &data)?;
    let mut cx = table_context(suite);
    cx.notes.extend(skipped_note(out));
    let notes = tessera_reports::notes(records, &cx);
    page::write_page(out, records, data, drawn, notes)
}

/// What the tables' footnotes say of a resolved suite.
fn table_context(suite: &Value) -> TableContext {
    let mut cx = TableContext::default();
    for entry in suite["tokenizers"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap_or_default();
        let sections = entry["override"].as_object().into_iter().flatten();
        for (section, fields) in sections {
            for (field, value) in fields.as_object().into_iter().flatten() {
                cx.overrides
                    .push((name.to_owned(), format!("{section}.{field} = {value}")));
            }
        }
    }
    if suite["pretrain"]["augment"] == "fixed-view" {
        let note = "Every row was pretrained on the evaluation view and its mirror image (augment: fixed-view).";
        cx.notes.push(note.into());
    }
    cx
}

/// The footnote on images that were left out.
fn skipped_note(out: &Path) -> Option<String> {
    let text = fs::read_to_string(out.join(SKIPPED)).ok()?;
    let names: Vec<&str> = text.lines().filter_map(|l| l.split('\t').next()).collect();
    let (count, shown) = (names.len(), names.len().min(10));
    let more = if shown < count { ", ..." } else { "" };
    let list = names[..shown].join(", ");
    Some(format!(
        "{count} images do not decode and are left out: {list}{more} ({SKIPPED})."
    ))
}

/// What [`report`] wrote.
#[derive(Debug)]
pub struct Reported {
    /// A table for the terminal.
    pub summary: String,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// Writes the tables, figures and page of a run folder again; `tables` empty means the suite's. The rows of the runs in `with` stand in them too.
///
/// # Errors
/// When a folder is none of a run.
pub fn report(run: &Path, tables: &[u32], with: &[PathBuf]) -> anyhow::Result<Reported> {
    let own = records_of(run)?;
    let mut records = own.clone();
    for other in with {
        records.extend(records_of(other)?);
    }
    let path = run.join(SUITE);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let suite: Value = serde_yaml::from_str(&text).with_context(|| path.display().to_string())?;
    let of_suite: Vec<u32> = suite["report"]["tables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|number| u32::try_from(number.as_u64()?).ok())
        .collect();
    let tables = if tables.is_empty() { &of_suite } else { tables };
    let files = tables_of(run, &suite, &own, &records, tables)?;
    write_drawn(run, &suite, &own)?;
    Ok(Reported {
        summary: tessera_reports::summary(&records),
        files,
    })
}
