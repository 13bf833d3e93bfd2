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
    job_of(|name| std::env::var(name).ok())
}

fn job_of(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    // First: HyperQueue's workers may themselves run in jobs of Slurm.
    if let Some(id) = get("HQ_JOB_ID") {
        let task = get("HQ_TASK_ID").unwrap_or_default();
        return Some(format!("hq {id}@{task}"));
    }
    // The last task of an array has the id of the whole array.
    match (get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")) {
        (Some(array), Some(task)) => Some(format!("slurm {array}_{task}")),
        _ => get("SLURM_JOB_ID").map(|id| format!("slurm {id}")),
    }
}

/// Returns the records of a store, for the clean-up.
pub(super) fn records(root: &Path) -> Vec<PathBuf> {
    let stages = dirs_or_files(&root.join(FOLDER));
    let records = stages.iter().map(|stage| dirs_or_files(stage));
    records.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_scheduler_names_the_job() {
        let job = |given: &[(&str, &str)]| {
            job_of(|name| {
                let found = given.iter().find(|(given, _)| *given == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let alone = [("SLURM_JOB_ID", "17")];
        let last = [("SLURM_ARRAY_JOB_ID", "17"), ("SLURM_ARRAY_TASK_ID", "3")];
        let hq = [("HQ_JOB_ID", "5"), ("HQ_TASK_ID", "2")];
        assert_eq!(job(&[]), None);
        assert_eq!(job(&alone).unwrap(), "slurm 17");
        assert_eq!(job(&[&alone[..], &last].concat()).unwrap(), "slurm 17_3");
        let inside = [&alone[..], &last, &hq].concat();
        assert_eq!(job(&inside).unwrap(), "hq 5@2");
    }
}
