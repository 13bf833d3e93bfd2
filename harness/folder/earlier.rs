//! What a run folder has before a command writes into it. Damaged files count as absent.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tessera_reports::{CostRow, Measured, Record, from_csv};

use super::content::bytes;
use super::layout::{COSTS, RESULTS, SUITE};
use super::read::parsed;
use super::sums;

/// What a run folder has.
#[derive(Debug, Default)]
pub struct Earlier {
    /// Its records, none if there is no run; `None` if `results.csv` is damaged.
    pub records: Option<Vec<Record>>,
    /// The finished stages of every cell.
    pub costs: Vec<CostRow>,
    /// Its suite; null if there is none.
    pub suite: Value,
}

impl Earlier {
    /// Reads the run folder `folder`.
    ///
    /// # Errors
    /// If a file exists but cannot be opened.
    pub fn of(folder: &Path) -> anyhow::Result<Self> {
        let suite = content(&folder.join(SUITE))?.unwrap_or_default();
        let costs = rows(&folder.join(COSTS))?.unwrap_or_default();
        Ok(Self {
            records: rows(&folder.join(RESULTS))?,
            // A damaged key would look like a result that the store lacks.
            costs: match sums::has_changed(folder, COSTS) {
                true => Vec::new(),
                false => costs,
            },
            suite: parsed(&String::from_utf8_lossy(&suite)).unwrap_or_default(),
        })
    }

    /// Returns the names of the rows in `folder`; `None` if `results.csv` is damaged or has changed since the run, so that it may lack some.
    ///
    /// # Errors
    /// Those of [`of`](Self::of).
    pub fn rows(folder: &Path) -> anyhow::Result<Option<BTreeSet<String>>> {
        let is_whole = !sums::has_changed(folder, RESULTS);
        let records = Self::of(folder)?.records.filter(|_| is_whole);
        Ok(records.map(|records| records.into_iter().map(|row| row.tokenizer).collect()))
    }

    /// Returns the name of the suite; `None` if there is no run.
    pub fn suite_name(&self) -> Option<&str> {
        let last = self.records.as_ref().and_then(|records| records.last());
        let name = last.map(|record| record.suite.as_str());
        name.or_else(|| self.suite["name"].as_str())
    }
}

/// Returns where a suite has its images: `root`, or the shards. Images that are drawn have no place.
pub fn places(suite: &Value) -> Vec<PathBuf> {
    let fields = ["root", "train", "val"].map(|field| &suite["dataset"][field]);
    let listed = |field: &Value| match field {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    let all = fields.into_iter().flat_map(listed);
    all.filter_map(|place| Some(place.as_str()?.into()))
        .collect()
}

/// Returns the bytes of a file. One that is too large to be a run's is damaged, so it has none.
fn content(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let is_too_large = |error: &io::Error| error.kind() == io::ErrorKind::FileTooLarge;
    match bytes(path) {
        Err(error) if error.downcast_ref().is_some_and(is_too_large) => Ok(Some(Vec::new())),
        bytes => bytes,
    }
}

/// Returns the rows of a CSV file; none if there is no file, `None` if it is damaged.
fn rows<T: for<'de> Deserialize<'de> + Measured>(path: &Path) -> anyhow::Result<Option<Vec<T>>> {
    let Some(text) = content(path)? else {
        return Ok(Some(Vec::new()));
    };
    let text = String::from_utf8(text).ok();
    let text = text.filter(|text| text.ends_with('\n') && !text.contains('\0'));
    let rows = text.and_then(|text| from_csv(&text, &path.display().to_string()).ok());
    // A file without rows is one that lost them.
    Ok(rows.filter(|rows: &Vec<T>| !rows.is_empty()))
}
