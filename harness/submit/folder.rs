//! The folder `submit/` of a run folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tessera_models::files;

use super::scheduler::Scheduler;
use crate::folder::layout::SUBMIT;
use crate::folder::links;
use crate::run::nodes::{COLLECT, PlannedNode};
use crate::store::{Attempt, Lock, write_atomic};

/// The plan: what `bench plan --json` prints, and how a node is computed.
const PLAN: &str = "plan.json";
/// The ids of the jobs.
const JOBS: &str = "jobs.json";
/// The suite as it was submitted, so that later changes of the file do not reach nodes.
const SUITE: &str = "suite.yaml";
/// Held by the process that submits.
const LOCK: &str = ".lock";
/// The job file of HyperQueue. Slurm has a script per array, `NAME.sbatch`.
pub(super) const HQ: &str = "hq.toml";
/// The folder of files of nodes.
const NODES: &str = "nodes";
/// The folder of logs.
pub(super) const LOGS: &str = "logs";

/// A submitted graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format.
    pub version: u32,
    /// Name of the suite.
    pub suite: String,
    /// The program that computes nodes.
    pub program: String,
    /// The working directory of the submission.
    pub directory: String,
    /// The run folder.
    pub out: String,
    /// Arguments of `bench run`, without `--out` and `--node`.
    pub arguments: Vec<String>,
    /// Whether every node needs a GPU, because keys of results name the device.
    pub gpu: bool,
    /// Threads of each node, if the user stated them.
    pub threads: Option<usize>,
    /// The nodes in an order in which they can be computed; the last is `collect`.
    pub nodes: Vec<PlannedNode>,
}

impl Plan {
    /// The version of the format that this program writes and reads.
    pub const VERSION: u32 = 1;
}

/// The jobs of a submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jobs {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The scheduler's ids, in the order of submission.
    pub ids: Vec<String>,
    /// The name of HyperQueue's job: a new server gives its id to another job.
    #[serde(default)]
    pub name: Option<String>,
    /// The job of each submitted node, by its index: `17_3` (Slurm: job and task of its array) or `5@3` (HyperQueue: job and task).
    pub nodes: Vec<(usize, String)>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Name of the machine.
    pub host: String,
    /// Job of the scheduler, such as `slurm 17_3`.
    pub job: Option<String>,
    /// The process on that machine.
    pub process: u32,
    /// The exit status; `None` while it runs.
    pub status: Option<u8>,
    /// The node without a result for which it was not computed.
    pub lost: Option<String>,
}

/// The folder `submit/` of a run folder.
pub struct Folder(PathBuf);

impl Folder {
    /// Returns that of the run folder `run`.
    pub fn of(run: &Path) -> Self {
        Self(run.join(SUBMIT))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Excludes other submissions until the result is dropped. Nodes do not need it.
    ///
    /// # Errors
    /// If the folder cannot be written, or another process holds the lock.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        links::check(self.0.parent().unwrap_or(Path::new("")))?;
        let path = self.0.join(LOCK);
        fs::create_dir_all(&self.0).with_context(|| self.0.display().to_string())?;
        if let Err(error) = files::check_place(&path) {
            bail!("{}: {error}; remove it", path.display());
        }
        match Lock::attempt(&path).with_context(|| path.display().to_string())? {
            Attempt::Taken(lock) => Ok(lock),
            Attempt::Busy => bail!(
                "{}: another process submits this run now; the same command with --wait waits for it afterwards",
                self.0.display()
            ),
        }
    }

    /// Returns the suite's text as it was submitted.
    pub fn suite(&self) -> PathBuf {
        self.0.join(SUITE)
    }

    /// Reads the plan; `None` if there is none.
    ///
    /// # Errors
    /// If it is unreadable, of another version, or cut.
    pub fn plan(&self) -> anyhow::Result<Option<Plan>> {
        let path = self.0.join(PLAN);
        // Another version may have other fields.
        let version = read::<Value>(&path)?.map(|plan| plan["version"].clone());
        let remedy =
            "cancel its jobs if any are in the queue, remove the file, and submit the suite again";
        if let Some(found) = version.filter(|version| *version != Plan::VERSION) {
            bail!(
                "{}: found version {found}, expected {}; {remedy}",
                path.display(),
                Plan::VERSION
            );
        }
        let Some(plan) = read::<Plan>(&path)? else {
            return Ok(None);
        };
        let path = path.display();
        if plan.nodes.last().is_none_or(|last| last.id != COLLECT) {
            bail!(
                "{path}: the last node is not `{COLLECT}`, so the plan was cut or edited; {remedy}"
            );
        }
        Ok(Some(plan))
    }

    /// Reads the ids of the jobs; `None` if nothing was submitted.
    ///
    /// # Errors
    /// If they are unreadable.
    pub fn jobs(&self) -> anyhow::Result<Option<Jobs>> {
        read(&self.0.join(JOBS))
    }

    /// Writes the ids of the jobs.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_jobs(&self, jobs: &Jobs) -> anyhow::Result<()> {
        self.write(JOBS, &serde_json::to_string_pretty(jobs)?)
    }

    /// Forgets the ids of the jobs.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn forget_jobs(&self) -> anyhow::Result<()> {
        remove(fs::remove_file(self.0.join(JOBS)), &self.0)
    }

    /// Replaces an earlier submission, to whatever scheduler, by a new plan. Its logs stay.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn begin(&self, plan: &Plan, suite: &str) -> anyhow::Result<()> {
        self.forget_jobs()?;
        remove(fs::remove_dir_all(self.0.join(NODES)), &self.0)?;
        for name in [NODES, LOGS] {
            let path = self.0.join(name);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let named = || self.0.display().to_string();
        for entry in fs::read_dir(&self.0).with_context(named)? {
            let path = entry.with_context(named)?.path();
            // Their numbers are those of nodes of an earlier plan.
            if path.extension().is_some_and(|end| end == "sbatch") || path.ends_with(HQ) {
                remove(fs::remove_file(&path), &path)?;
            }
        }
        self.write(SUITE, suite)?;
        self.write(PLAN, &serde_json::to_string_pretty(plan)?)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(write_atomic(&self.0.join(name), text.as_bytes())?)
    }

    /// Reads what a node says of itself; `None` if it has not begun.
    ///
    /// # Errors
    /// If its file is unreadable.
    pub fn node(&self, index: usize) -> anyhow::Result<Option<NodeFile>> {
        read(&self.node_path(index))
    }

    /// Writes what a node says of itself.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_node(&self, index: usize, file: &NodeFile) -> anyhow::Result<()> {
        let text = serde_json::to_vec(file)?;
        Ok(write_atomic(&self.node_path(index), &text)?)
    }

    fn node_path(&self, index: usize) -> PathBuf {
        self.0.join(NODES).join(format!("{index}.json"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match files::read(path) {
        // The run folder may be a file: whoever writes into it says so, with a remedy.
        Err(error) if files::says_absent(&error) => return Ok(None),
        bytes => bytes.with_context(|| path.display().to_string())?,
    };
    let value = serde_json::from_slice(&bytes);
    let value = value.with_context(|| {
        format!(
            "{}: expected a file that `bench submit` wrote; remove it if no job of this run is in the queue",
            path.display()
        )
    })?;
    Ok(Some(value))
}

fn remove(removed: io::Result<()>, path: &Path) -> anyhow::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
