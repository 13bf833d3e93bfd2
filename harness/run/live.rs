//! Writes the current state of a run into its folder, for `bench runs`.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tessera_models::files;

use crate::folder::held::RunFolder;
use crate::folder::layout::LIVE;
use crate::stages::common::reporter::{Outcome, Reporter};
use crate::store::{is_alive, write_atomic};

/// Minimum time between updates of the progress.
const EVERY: Duration = Duration::from_secs(2);

/// State of a run in progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
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

impl Live {
    /// Reads the state of the run in `folder`; `None` if its process has ended.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = files::read(&folder.join(LIVE)).ok()?;
        let live: Self = serde_json::from_slice(&text).ok()?;
        (is_alive(live.pid) && live.began == began(live.pid)).then_some(live)
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
        let live = Live {
            pid: std::process::id(),
            began: began(std::process::id()),
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
        // A reused process ID.
        let reused = Live {
            pid: std::process::id(),
            began: Some(1),
            ..Live::default()
        };
        fs::write(dir.path().join(LIVE), serde_json::to_vec(&reused).unwrap()).unwrap();
        assert_eq!(Live::read(dir.path()), None);
        // The file of a killed process.
        let dead = Live {
            pid: i32::MAX as u32,
            ..Live::default()
        };
        fs::write(dir.path().join(LIVE), serde_json::to_vec(&dead).unwrap()).unwrap();
        assert_eq!(Live::read(dir.path()), None);
    }
}
