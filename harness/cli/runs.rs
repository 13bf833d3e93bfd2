//! `bench runs`: lists the runs of a folder and their state.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use tessera_reports::Record;

use super::failure::Failure;
use super::progress::duration;
use crate::folder::layout::RESULTS;
use crate::folder::read::records;
use crate::run::live::Live;

pub fn runs(folder: &Path) -> Result<(), Failure> {
    let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .with_context(|| format!("{}: expected a folder with runs", folder.display()))?
        .flatten()
        .filter_map(|entry| {
            let changed = fs::metadata(entry.path().join(RESULTS))
                .ok()?
                .modified()
                .ok()?;
            Some((changed, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    for (changed, path) in &found {
        let said = line(path, *changed);
        put!(
            "{}",
            said.unwrap_or_else(|e| format!("{}: unreadable: {e:#}", path.display()))
        )?;
    }
    if found.is_empty() {
        put!("no runs in {}", folder.display())?;
    }
    Ok(())
}

fn line(path: &Path, changed: SystemTime) -> anyhow::Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let results = path.join(RESULTS);
    let records = records(&results)?;
    let age = changed.elapsed().unwrap_or_default().as_secs_f64();
    let state = match Live::read(path) {
        Some(live) => doing(&live),
        None => state(&records),
    };
    let suite = records.first().map_or("", |r| r.suite.as_str());
    Ok(format!(
        "{name:<24} {suite:<16} {:>4} cells  {:>12} ago  {state}",
        records.len(),
        duration(age)
    ))
}

/// Describes how a run ended.
fn state(records: &[Record]) -> String {
    let count = |status: &str| records.iter().filter(|r| r.status == status).count();
    let parts = ["failed", "pending", "skipped"].map(|status| (status, count(status)));
    let rest: Vec<String> = parts
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(status, n)| format!("{n} {status}"))
        .collect();
    match (rest.is_empty(), count("pending")) {
        (true, _) => "done".to_owned(),
        (false, 0) => format!("done, {}", rest.join(", ")),
        _ => format!("stopped, {}", rest.join(", ")),
    }
}

fn doing(live: &Live) -> String {
    let part = match live.of {
        0 => String::new(),
        of => format!(", {} %", 100 * live.done / of),
    };
    let left = live
        .seconds_left
        .map(|s| format!(", {} left", duration(s)))
        .unwrap_or_default();
    format!(
        "running: {} [{}/{}]{part}{left}",
        live.label, live.index, live.total
    )
}
