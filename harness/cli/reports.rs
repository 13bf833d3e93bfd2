//! `bench report`: writes tables and figures of a run folder again, and the paper's own figures.

use std::path::{Path, PathBuf};

use tessera_models::files;
use tessera_reports::Record;

use anyhow::Context as _;

use super::failure::Failure;
use super::process;
use crate::folder::data::RunData;
use crate::folder::held::RunFolder;
use crate::folder::layout::{RESULTS, SUITE};
use crate::folder::{read, write};

/// If `tables` is empty, writes those of the suite. Tables include the rows of the runs in `with`.
pub fn report(run: &Path, tables: &[u32], with: &[PathBuf]) -> Result<(), Failure> {
    let run = &folder_of(run)?;
    const OTHERWISE: &str = "report on a writable copy of the folder";
    // Results that are read while a run writes them would replace its last tables by earlier ones.
    let folder = match run.join(RESULTS).is_file() {
        true => Some(RunFolder::lock(run, &process::command_line(), OTHERWISE)?),
        false => None,
    };
    let data = read::whole(run)?;
    let folder = folder.context("the results appeared just now; report again")?;
    let read = |other: &PathBuf| {
        let other = &folder_of(other)?;
        match files::is_absent(&other.join(SUITE)) {
            // Results without the rest of their run folder.
            true => read::measured(other, &other.join(RESULTS)),
            false => read::whole(other),
        }
    };
    let others: Vec<RunData> = with.iter().map(read).collect::<anyhow::Result<_>>()?;
    let of_suite = data.suite["report"]["tables"].as_array();
    let of_suite = of_suite.into_iter().flatten();
    let of_suite = of_suite.filter_map(|number| u32::try_from(number.as_u64()?).ok());
    let of_suite: Vec<u32> = of_suite.collect();
    let tables = if tables.is_empty() { &of_suite } else { tables };
    let paths = write::report(&folder, &data, tables, &others)?;
    let all = || [&data].into_iter().chain(&others);
    let records: Vec<Record> = all().flat_map(|run| run.records.clone()).collect();
    let metrics = all().flat_map(RunData::metrics_of_records).collect();
    put!("{}", tessera_reports::summary(&records, &metrics))?;
    if let Some(note) = tessera_reports::left_out(&records) {
        put!("{note}")?;
    }
    for path in &paths {
        put!("{}", path.display())?;
    }
    Ok(())
}

/// Returns the run folder at `path`, which may be that of its `results.csv`.
fn folder_of(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_file() {
        return Ok(path.to_owned());
    }
    anyhow::ensure!(
        path.ends_with(RESULTS),
        "{}: found a file, expected a run folder or its {RESULTS}",
        path.display()
    );
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    Ok(folder.unwrap_or(Path::new(".")).to_owned())
}

pub fn paper(folder: &Path) -> Result<(), Failure> {
    let drawn = tessera_reports::figures::of_paper();
    for figure in &drawn {
        put!("{}", figure.caption)?;
    }
    for path in write::write_figures(folder, &drawn)? {
        put!("{}", path.display())?;
    }
    Ok(())
}
