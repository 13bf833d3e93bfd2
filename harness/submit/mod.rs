//! A suite as jobs of a scheduler. The nodes of `bench plan` become job arrays of Slurm or tasks of HyperQueue, which call `bench node`.
//!
//! `RUN_DIR/submit/` holds the plan, the scripts, the ids of the jobs, their logs, and for each node a file that says how it ended. Names of
//! rows are only in the plan: scripts address nodes by their index.

mod folder;
mod groups;
mod hq;
mod scheduler;
mod slurm;
mod states;

pub use folder::{Folder, Jobs, NodeFile, Plan};
pub use scheduler::{Live, Scheduler, quoted};
pub use slurm::requeue;
pub use states::{NodeState, State, counted, states};

impl Scheduler {
    /// Checks the options that the user passes to it.
    ///
    /// # Errors
    /// If an option would change the graph, or has another form than the scheduler's.
    pub fn check(self, options: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Slurm => slurm::check(options),
            Self::Hq => hq::requests(options, None, false).map(|_| ()),
        }
    }

    /// Writes the scripts. Returns the commands that submit them, for people.
    ///
    /// # Errors
    /// If a file cannot be written, or an option is wrong.
    pub fn write(
        self,
        folder: &Folder,
        plan: &Plan,
        options: &[String],
    ) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Slurm => slurm::write(folder, plan, options),
            Self::Hq => hq::write(folder, plan, options),
        }
    }

    /// Submits what [`write`](Self::write) wrote, and records the ids after each job.
    ///
    /// # Errors
    /// If the scheduler refuses a job. Nothing of this submission is left in its queue then.
    pub fn submit(self, folder: &Folder, plan: &Plan, options: &[String]) -> anyhow::Result<Jobs> {
        match self {
            Self::Slurm => slurm::submit(folder, plan, options),
            Self::Hq => hq::submit(folder, plan),
        }
    }

    /// Returns the jobs that have not ended, and whether they may run now.
    ///
    /// # Errors
    /// If the scheduler cannot be asked.
    pub fn live(self, jobs: &Jobs) -> anyhow::Result<Live> {
        match self {
            Self::Slurm => slurm::live(jobs),
            Self::Hq => hq::live(jobs),
        }
    }

    /// Returns the command that ends the jobs, for people.
    pub fn cancel(self, jobs: &Jobs) -> String {
        match self {
            Self::Slurm => format!("scancel {}", jobs.ids.join(" ")),
            Self::Hq => format!("hq job cancel {}", jobs.ids.join(",")),
        }
    }
}
