//! Records of failed stages, in `STORE/.failed/<stage>/<key>.json`, so that every machine sees what failed on another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{StoreError, at, make_dir, write_atomic};
use super::{Provenance, Store};

/// The folder of the records.
pub(super) const FOLDER: &str = ".failed";

/// Why and where a stage failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Label of the stage.
    pub label: String,
    /// The error.
    pub error: String,
    /// Name of the machine.
    pub host: String,
    /// Job of the scheduler, such as `slurm 17_3`.
    pub job: Option<String>,
}

impl Failed {
    fn here(label: &str, error: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into();
        Self {
            label: label.to_owned(),
            error: error.to_owned(),
            host,
            job: job(),
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (on {}", self.error, self.host)?;
        match &self.job {
            Some(job) => write!(f, ", {job})"),
            None => f.write_str(")"),
        }
    }
}

/// Returns the scheduler's id of the present job, from the variables that Slurm and HyperQueue set.
fn job() -> Option<String> {
    let get = |name| std::env::var(name).ok();
    if let Some(id) = get("SLURM_JOB_ID") {
        return Some(
            match (get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")) {
                (Some(array), Some(task)) => format!("slurm {array}_{task}"),
                _ => format!("slurm {id}"),
            },
        );
    }
    let task = get("HQ_TASK_ID").unwrap_or_default();
    get("HQ_JOB_ID").map(|id| format!("hq {id}@{task}"))
}

impl Store {
    fn failed_at(&self, provenance: &Provenance) -> PathBuf {
        let folder = self.folder.root.join(FOLDER).join(provenance.stage);
        folder.join(format!("{}.json", provenance.key()))
    }

    /// Records that a stage failed.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn record_failure(&self, provenance: &Provenance, error: &str) -> Result<(), StoreError> {
        let path = self.failed_at(provenance);
        make_dir(path.parent().unwrap_or(&path))?;
        let failed = Failed::here(&provenance.label, error);
        let text = serde_json::to_vec_pretty(&failed).map_err(|e| StoreError::Stage(e.into()))?;
        write_atomic(&path, &text)
    }

    /// Removes the record of a stage that has succeeded.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn forget_failure(&self, provenance: &Provenance) -> Result<(), StoreError> {
        let path = self.failed_at(provenance);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Returns the record of a failed stage. A record that cannot be parsed was not written by this program and counts as absent.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn failure(&self, provenance: &Provenance) -> Result<Option<Failed>, StoreError> {
        let path = self.failed_at(provenance);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path)(error)),
        }
    }
}

/// Returns the records of a store, for the clean-up.
pub(super) fn records(root: &Path) -> Vec<PathBuf> {
    let stages = super::left::dirs_or_files(&root.join(FOLDER));
    let records = stages.iter().map(|stage| super::left::dirs_or_files(stage));
    records.flatten().collect()
}
