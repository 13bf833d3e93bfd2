//! Records of failed stages, in `STORE/.failed/<stage>/<key>.json`, so that every machine sees what failed on another.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::left::dirs_or_files;

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
    /// Returns the record of a failure of this process.
    pub(super) fn here(label: &str, error: &str) -> Self {
        Self {
            label: label.to_owned(),
            error: error.to_owned(),
            host: host(),
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

/// Returns the name of this machine.
pub fn host() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// Returns the scheduler's id of the present job, from the variables that Slurm and HyperQueue set.
pub fn job() -> Option<String> {
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

/// Returns the records of a store, for the clean-up.
pub(super) fn records(root: &Path) -> Vec<PathBuf> {
    let stages = dirs_or_files(&root.join(FOLDER));
    let records = stages.iter().map(|stage| dirs_or_files(stage));
    records.flatten().collect()
}
