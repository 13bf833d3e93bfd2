//! Writes the current state of a run into its folder, for `bench runs`.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tessera_models::files::{self, Owner};

use crate::folder::held::RunFolder;
use crate::folder::layout::{LIVE, LOCK};
use crate::stages::common::reporter::{Outcome, Reporter};
use crate::store::{Lock, host, is_alive, write_atomic};

/// Minimum time between updates of the progress.
const EVERY: Duration = Duration::from_secs(2);

/// State of a run in progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Name of the machine; empty in files of versions before 0.2.
    #[serde(default)]
    pub host: String,
    /// Machine and process table, as in [`Owner`].
    #[serde(default)]
    pub table: String,
    /// Process ID.
    pub pid: u32,
    /// Start time of the process in clock ticks, because process IDs are reused.
    pub began: Option<u64>,
    /// Name of the stage and of its row.
    pub label: String,
    /// Index of the stage, from 1.
    pub index: usize,
    /// Number of stages.
    pub total: usize,
    /// Finished units of the stage.
    pub done: usize,
    /// All units of the stage.
    pub of: usize,
    /// Estimate for the whole run.
    pub seconds_left: Option<f64>,
}

/// Most bytes of the file; one has less than a thousand.
const MOST: u64 = 1 << 20;

impl Live {
    /// Reads the state of the run in `folder`; `None` if its process has ended. A process of another machine or container runs while it
    /// holds the folder's lock. It counts as running where the lock cannot be read, or the file system has none.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = files::read_up_to(&folder.join(LIVE), MOST).ok()?;
        let live: Self = serde_json::from_slice(&text).ok()?;
        let runs = match live.is_here() {
            true => is_alive(live.pid) && live.began == began(live.pid),
            false => Lock::is_held(&folder.join(LOCK)).unwrap_or(true),
        };
        runs.then_some(live)
    }

    /// Whether it runs on this machine and in the same process table.
    pub fn is_here(&self) -> bool {
        let (host, pid) = (self.table.clone(), self.pid);
        Owner { host, pid }.is_here()
    }
}

/// Returns the start time of a process since boot (proc(5), field 22 of stat); `None` if the system does not report it.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain any characters.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Reports to another reporter and to the run folder.
pub struct Announcer<'a> {
    inner: &'a dyn Reporter,
    folder: &'a RunFolder,
    state: Mutex<(Live, Instant)>,
}

impl<'a> Announcer<'a> {
    /// Creates a reporter that writes the state into `folder` until it is dropped.
    pub fn new(inner: &'a dyn Reporter, folder: &'a RunFolder) -> Self {
        let Owner { host: table, pid } = Owner::this();
        let live = Live {
            host: host(),
            table,
            pid,
            began: began(pid),
            ..Live::default()
        };
        Self {
            inner,
            folder,
            state: Mutex::new((live, Instant::now())),
        }
    }

    fn update(&self, at_once: bool, change: impl FnOnce(&mut Live)) {
        // A panic elsewhere leaves the fields consistent.
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut state.0);
        if at_once || state.1.elapsed() >= EVERY {
            state.1 = Instant::now();
            // Only `bench runs` reads the file, so errors do not fail the run.
            if let (Ok(folder), Ok(text)) = (self.folder.here(), serde_json::to_vec(&state.0)) {
                let _ = write_atomic(&folder.join(LIVE), &text);
            }
        }
    }
}

impl Drop for Announcer<'_> {
    fn drop(&mut self) {
        if let Ok(folder) = self.folder.here() {
            let _ = fs::remove_file(folder.join(LIVE));
        }
    }
}

impl Reporter for Announcer<'_> {
    fn begin(&self, label: &str, index: usize, total: usize, seconds_left: Option<f64>) {
        self.update(true, |live| {
            *live = Live {
                label: label.to_owned(),
                index,
                total,
                seconds_left,
                host: std::mem::take(&mut live.host),
                table: std::mem::take(&mut live.table),
                pid: live.pid,
                began: live.began,
                ..Live::default()
            };
        });
        self.inner.begin(label, index, total, seconds_left);
    }

    fn progress(&self, done: usize, total: usize, note: &str) {
        self.update(false, |live| (live.done, live.of) = (done, total));
        self.inner.progress(done, total, note);
    }

    fn end(&self, label: &str, seconds: f64, outcome: Outcome<'_>) {
        self.inner.end(label, seconds, outcome);
    }

    fn note(&self, line: &str) {
        self.inner.note(line);
    }

    fn detail(&self, line: &str) {
        self.inner.detail(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::common::reporter::Silent;

    #[test]
    fn the_state_is_readable_while_the_run_lasts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Live::read(dir.path()), None);
        {
            let folder = RunFolder::prepare(dir.path(), "s", "bench run").unwrap();
            let announcer = Announcer::new(&Silent, &folder);
            announcer.begin("pretrain: HOG", 3, 9, Some(60.0));
            let live = Live::read(dir.path()).unwrap();
            assert_eq!(
                (live.label.as_str(), live.index, live.total),
                ("pretrain: HOG", 3, 9)
            );
        }
        assert_eq!(Live::read(dir.path()), None);
        let read = |table: &str, pid, began| {
            let live = Live {
                table: table.to_owned(),
                pid,
                began,
                ..Live::default()
            };
            fs::write(dir.path().join(LIVE), serde_json::to_vec(&live).unwrap()).unwrap();
            Live::read(dir.path())
        };
        let here = Owner::this();
        // A reused process ID, and a killed process.
        assert_eq!(read(&here.host, here.pid, Some(1)), None);
        assert_eq!(read(&here.host, i32::MAX as u32, None), None);
        // Of another machine, and of a version that named none: the number of the process says nothing here.
        for table in ["node_7.0123abcd", ""] {
            for pid in [here.pid, i32::MAX as u32] {
                assert_eq!(read(table, pid, began(pid)), None);
                let held = RunFolder::lock(dir.path(), "bench run", "wait").unwrap();
                assert!(!read(table, pid, began(pid)).unwrap().is_here());
                drop(held);
            }
        }
    }
}
