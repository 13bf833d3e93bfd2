//! The states of submitted nodes, from the plan, their files and, if it can be asked, the scheduler.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::folder::{Folder, Jobs, NodeFile, Plan};
use super::scheduler::Live;

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its result was stored before the submission.
    Stored,
    /// Its result is in the store; the node `collect` has written the run folder.
    Done,
    /// It runs.
    Running,
    /// It waits for other nodes or for a machine.
    Waiting,
    /// It failed.
    Failed,
    /// It ended without a result: cancelled, killed, or it waits for a node that failed.
    Ended,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stored => "stored",
            Self::Done => "done",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Ended => "not run",
        })
    }
}

/// A submitted node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Its state.
    pub state: State,
    /// The scheduler's job.
    pub job: Option<String>,
    /// The machine on which it last ran.
    pub host: Option<String>,
    /// Its exit status.
    pub status: Option<u8>,
}

/// Returns the states of all nodes in the order of the plan. `live` has the jobs that the scheduler knows; `None` if it cannot be asked.
///
/// # Errors
/// If a file is unreadable.
pub fn states(
    folder: &Folder,
    plan: &Plan,
    jobs: Option<&Jobs>,
    live: Option<&Live>,
) -> anyhow::Result<Vec<NodeState>> {
    let jobs: HashMap<usize, &String> = jobs
        .iter()
        .flat_map(|jobs| jobs.nodes.iter().map(|(at, job)| (*at, job)))
        .collect();
    let mut all: Vec<NodeState> = Vec::new();
    let mut ended: HashSet<&str> = HashSet::new();
    for (at, node) in plan.nodes.iter().enumerate() {
        let job = jobs.get(&at).copied();
        let file = folder.node(at)?;
        // `collect` runs also if other nodes have no result.
        let is_last = at + 1 == plan.nodes.len();
        let blocked = !is_last && node.after.iter().any(|id| ended.contains(id.as_str()));
        let is_live = live.map(|live| job.and_then(|job| live.get(job).copied()));
        let state = match node.stored {
            true => State::Stored,
            false => state(file.as_ref(), is_live, blocked),
        };
        if matches!(state, State::Failed | State::Ended) {
            ended.insert(&node.id);
        }
        all.push(NodeState {
            state,
            job: job.cloned(),
            status: file.as_ref().and_then(|file| file.status),
            host: file.map(|file| file.host),
        });
    }
    Ok(all)
}

/// Returns the state of a node that was not stored. `live` is `None` if the scheduler cannot be asked, else whether the node's job may run,
/// if it has not ended. `blocked` says that an input has no result and never will.
fn state(file: Option<&NodeFile>, live: Option<Option<bool>>, blocked: bool) -> State {
    if file.is_some_and(|file| file.lost.is_some()) {
        return State::Ended;
    }
    let status = file.map(|file| file.status);
    match (status, live) {
        (Some(Some(0)), _) => State::Done,
        (Some(Some(1 | 2)), _) => State::Failed,
        (Some(None), None | Some(Some(true))) => State::Running,
        (_, Some(Some(_))) => State::Waiting,
        (_, Some(None)) => State::Ended,
        // It was interrupted or came too early: only the scheduler knows whether it tries again.
        (Some(Some(_)), None) => State::Waiting,
        (None, None) if blocked => State::Ended,
        (None, None) => State::Waiting,
    }
}

/// Returns the number of nodes in each state: `3 done, 2 running, 10 waiting`.
pub fn counted(all: &[NodeState]) -> String {
    let mut states: Vec<State> = all.iter().map(|node| node.state).collect();
    states.sort_unstable();
    let groups = states.chunk_by(|a, b| a == b);
    let parts = groups.map(|group| format!("{} {}", group.len(), group[0]));
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_the_scheduler_forgot_has_ended() {
        let file = |status| NodeFile {
            host: "n1".into(),
            job: None,
            status,
            lost: None,
        };
        let (running, stopped) = (file(None), file(Some(130)));
        let of = |file: Option<&NodeFile>, live| state(file, live, false);
        let (runs, queued, gone) = (Some(Some(true)), Some(Some(false)), Some(None));
        assert_eq!(of(Some(&running), None), State::Running);
        assert_eq!(of(Some(&running), runs), State::Running);
        assert_eq!(of(Some(&running), queued), State::Waiting, "requeued");
        assert_eq!(of(Some(&running), gone), State::Ended, "killed");
        assert_eq!(of(Some(&stopped), queued), State::Waiting, "requeued");
        assert_eq!(of(Some(&stopped), gone), State::Ended, "cancelled");
        assert_eq!(of(None, queued), State::Waiting);
        assert_eq!(of(None, gone), State::Ended);
        assert_eq!(of(Some(&file(Some(1))), runs), State::Failed);
        assert_eq!(of(Some(&file(Some(0))), None), State::Done);
        assert_eq!(state(None, None, true), State::Ended, "its input failed");
    }
}
