//! `bench runs`: lists the runs of a folder and their state, or the nodes of a submitted run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tessera_models::files;
use tessera_reports::Record;

use super::failure::Failure;
use super::progress::duration;
use crate::data::one_line;
use crate::folder::layout::{RESULTS, SUBMIT};
use crate::folder::read::records;
use crate::run::live::Live;
use crate::submit::{Folder, NodeState, Plan, State, counted, states};

/// What to do where there are no runs.
const BEGIN: &str = "`bench run SUITE` writes its run folder into runs/ (or --out); `bench runs FOLDER` lists those of another folder";

pub fn runs(folder: &Path, json: bool) -> Result<(), Failure> {
    let unread = || format!("{}: cannot be read", folder.display());
    if let Some(changed) = changed(folder).with_context(unread)? {
        let run = Run::read(folder, changed)?;
        if json {
            let mut about = run.json();
            about["nodes"] = run.submitted.as_ref().map_or(Value::Null, Submitted::json);
            return Ok(put_json!(json!({"runs": [about]}))?);
        }
        put!("{}", run.line())?;
        return run.submitted.as_ref().map_or(Ok(()), Submitted::print);
    }
    let entries = fs::read_dir(folder)
        .with_context(|| format!("{}: expected a folder with runs; {BEGIN}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(unread)?.path();
        match changed(&path) {
            Ok(None) => {}
            Ok(Some(changed)) => found.push((changed, path, None)),
            Err(error) => found.push((SystemTime::UNIX_EPOCH, path, Some(error))),
        }
    }
    found.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
    let is_empty = found.is_empty();
    let runs = found.into_iter().map(|(changed, path, error)| {
        let run = match error {
            None => Run::read(&path, changed),
            Some(error) => Err(error.into()),
        };
        (path, run)
    });
    if json {
        let all = runs.map(|(path, run)| match run {
            Ok(run) => run.json(),
            Err(e) => unreadable(&path, &e),
        });
        return Ok(put_json!(json!({"runs": all.collect::<Vec<_>>()}))?);
    }
    for (path, run) in runs {
        match run {
            Ok(run) => put!("{}", run.line())?,
            Err(e) => {
                let line = format!("{}: unreadable: {e:#}", path.display());
                put!("{}", one_line(&line))?;
            }
        }
    }
    if is_empty {
        put!("no runs in {}; {BEGIN}", folder.display())?;
    }
    Ok(())
}

/// Returns when a run folder has changed; `None` for other folders.
fn changed(folder: &Path) -> io::Result<Option<SystemTime>> {
    let mut last = None;
    for name in [RESULTS, SUBMIT] {
        match fs::metadata(folder.join(name)).and_then(|about| about.modified()) {
            Ok(time) => last = last.max(Some(time)),
            Err(error) if files::says_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(last)
}

/// What a run folder tells.
struct Run {
    folder: PathBuf,
    /// Seconds since it changed.
    age: f64,
    records: Vec<Record>,
    live: Option<Live>,
    submitted: Option<Submitted>,
}

impl Run {
    fn read(folder: &Path, changed: SystemTime) -> anyhow::Result<Self> {
        let results = folder.join(RESULTS);
        Ok(Self {
            folder: folder.to_owned(),
            age: changed.elapsed().unwrap_or_default().as_secs_f64(),
            records: match results.exists() {
                true => records(&results)?,
                false => Vec::new(),
            },
            submitted: submitted(folder)?,
            live: Live::read(folder),
        })
    }

    fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn suite(&self) -> &str {
        let planned = self.submitted.as_ref().map_or("", |s| &s.plan.suite);
        self.records.first().map_or(planned, |r| &r.suite)
    }

    /// Returns the state: a word, and details for people.
    fn state(&self) -> (&'static str, String) {
        match (&self.live, &self.submitted) {
            (Some(live), _) => ("running", doing(live)),
            (None, Some(submitted)) if submitted.is_open(&self.records) => submitted.doing(),
            _ => ended(&self.records),
        }
    }

    fn line(&self) -> String {
        let line = format!(
            "{:<24} {:<16} {:>4} cells  {:>12} ago  {}",
            self.name(),
            self.suite(),
            self.records.len(),
            duration(self.age),
            self.state().1
        );
        one_line(&line)
    }

    fn json(&self) -> Value {
        let live = self.live.as_ref();
        let live = live.map(|live| {
            json!({
                "label": live.label,
                "index": live.index,
                "total": live.total,
                "done": live.done,
                "of": live.of,
                "seconds_left": live.seconds_left,
                "host": live.host,
            })
        });
        let cells = counts(self.records.iter().map(|record| record.status.clone()));
        let submitted = self.submitted.as_ref();
        let submitted = submitted.map(|submitted| {
            let states = submitted.nodes.iter().map(|node| node.state.to_string());
            json!({"scheduler": submitted.scheduler, "nodes_by_state": counts(states)})
        });
        json!({
            "folder": self.folder.display().to_string(),
            "name": self.name(),
            "suite": self.suite(),
            "state": self.state().0,
            "error": Value::Null,
            "seconds_since_change": self.age,
            "cells": self.records.len(),
            "cells_by_status": cells,
            "live": live,
            "submitted": submitted,
        })
    }
}

/// Returns the entry of a run that cannot be read: the fields of one that can, without values.
fn unreadable(folder: &Path, error: &anyhow::Error) -> Value {
    let name = folder.file_name().unwrap_or_default();
    json!({
        "folder": folder.display().to_string(),
        "name": name.to_string_lossy(),
        "suite": null,
        "state": "unreadable",
        "error": format!("{error:#}"),
        "seconds_since_change": null,
        "cells": null,
        "cells_by_status": null,
        "live": null,
        "submitted": null,
    })
}

/// Returns how often each word occurs.
fn counts(words: impl Iterator<Item = String>) -> Map<String, Value> {
    let mut counts = Map::new();
    for word in words {
        let before = counts.get(&word).and_then(Value::as_u64).unwrap_or(0);
        counts.insert(word, json!(before + 1));
    }
    counts
}

/// A submission with the states of its nodes.
struct Submitted {
    plan: Plan,
    /// `None` if `bench submit` has only written the plan.
    scheduler: Option<&'static str>,
    nodes: Vec<NodeState>,
}

/// Reads the submission of a run folder, if it has one. The scheduler is asked if its programs are here.
fn submitted(path: &Path) -> anyhow::Result<Option<Submitted>> {
    let folder = Folder::of(path);
    let Some(plan) = folder.plan()? else {
        return Ok(None);
    };
    let jobs = folder.jobs()?;
    let live = jobs
        .as_ref()
        .and_then(|jobs| jobs.scheduler.live(jobs).ok());
    let nodes = states(&folder, &plan, jobs.as_ref(), live.as_ref())?;
    Ok(Some(Submitted {
        plan,
        scheduler: jobs.map(|jobs| jobs.scheduler.name()),
        nodes,
    }))
}

impl Submitted {
    /// Returns whether `collect` has not yet written the run folder. A plan that nobody computes says nothing of the folder's results.
    fn is_open(&self, records: &[Record]) -> bool {
        let last = self.nodes.last();
        let is_ended = last.is_some_and(|last| last.state == State::Done);
        let is_begun = |node: &NodeState| node.host.is_some();
        let is_idle = self.scheduler.is_none() && !self.nodes.iter().any(is_begun);
        !is_ended && (records.is_empty() || !is_idle)
    }

    fn doing(&self) -> (&'static str, String) {
        let waits = |node: &NodeState| matches!(node.state, State::Waiting | State::Running);
        let (word, verb) = match (self.scheduler, self.nodes.iter().any(waits)) {
            (None, _) => ("planned", "planned".to_owned()),
            (Some(scheduler), true) => ("submitted", format!("submitted to {scheduler}")),
            (Some(scheduler), false) => ("stopped", format!("stopped on {scheduler}")),
        };
        (word, format!("{verb}: {}", counted(&self.nodes)))
    }

    /// Prints the nodes.
    fn print(&self) -> Result<(), Failure> {
        put!("{}", counted(&self.nodes))?;
        for (node, state) in self.plan.nodes.iter().zip(&self.nodes) {
            let job = state.job.as_deref().unwrap_or_default();
            let host = state.host.as_ref().map(|host| format!(" on {host}"));
            // `collect` writes the run folder also then.
            let lacking = match (state.state, state.status) {
                (State::Done, Some(1)) => ", cells have failed",
                (State::Done, Some(3)) => ", nodes had no result yet",
                _ => "",
            };
            let line = format!(
                "{:<50} {:<8} {job}{}{lacking}",
                node.id,
                state.state,
                host.unwrap_or_default()
            );
            put!("{}", one_line(&line))?;
        }
        Ok(())
    }

    /// Returns the nodes.
    fn json(&self) -> Value {
        let nodes = self.plan.nodes.iter().zip(&self.nodes);
        let nodes = nodes.map(|(node, state)| {
            json!({
                "id": node.id,
                "state": state.state.to_string(),
                "job": state.job,
                "host": state.host,
                "exit_status": state.status,
            })
        });
        nodes.collect()
    }
}

/// Describes how a run ended.
fn ended(records: &[Record]) -> (&'static str, String) {
    let count = |status: &str| records.iter().filter(|r| r.status == status).count();
    let parts = ["failed", "pending", "skipped"].map(|status| (status, count(status)));
    let rest: Vec<String> = parts
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(status, n)| format!("{n} {status}"))
        .collect();
    if records.is_empty() {
        return ("stopped", "no results".to_owned());
    }
    let word = match count("pending") {
        0 => "done",
        _ => "stopped",
    };
    let words: Vec<String> = std::iter::once(word.to_owned()).chain(rest).collect();
    (word, words.join(", "))
}

fn doing(live: &Live) -> String {
    let part = match live.of {
        0 => String::new(),
        of => format!(", {} %", 100 * live.done / of),
    };
    let left = live
        .seconds_left
        .map(|s| format!(", {} left", duration(s)))
        .unwrap_or_default();
    // Versions before 0.2 wrote no name.
    let place = match live.is_here() || live.host.is_empty() {
        true => String::new(),
        false => format!(" on {}", live.host),
    };
    format!(
        "running{place}: {} [{}/{}]{part}{left}",
        live.label, live.index, live.total
    )
}
