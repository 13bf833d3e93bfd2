//! `bench runs`: lists the runs of a folder and their state, or the nodes of a submitted run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use tessera_reports::Record;

use super::failure::Failure;
use super::progress::duration;
use crate::folder::layout::{RESULTS, SUBMIT};
use crate::folder::read::records;
use crate::run::live::Live;
use crate::submit::{Folder, NodeState, Plan, State, counted, states};

pub fn runs(folder: &Path) -> Result<(), Failure> {
    if let Some(changed) = changed(folder) {
        put!("{}", line(folder, changed)?)?;
        return nodes(folder);
    }
    let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .with_context(|| format!("{}: expected a folder with runs", folder.display()))?
        .flatten()
        .filter_map(|entry| Some((changed(&entry.path())?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    for (changed, path) in &found {
        let said = line(path, *changed);
        put!(
            "{}",
            said.unwrap_or_else(|e| format!("{}: unreadable: {e:#}", path.display()))
        )?;
    }
    if found.is_empty() {
        put!("no runs in {}", folder.display())?;
    }
    Ok(())
}

/// Returns when a run folder has changed; `None` for other folders.
fn changed(folder: &Path) -> Option<SystemTime> {
    let files = [RESULTS, SUBMIT].into_iter();
    let times = files.filter_map(|name| fs::metadata(folder.join(name)).ok()?.modified().ok());
    times.max()
}

fn line(path: &Path, changed: SystemTime) -> anyhow::Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let results = path.join(RESULTS);
    let records = match results.exists() {
        true => records(&results)?,
        false => Vec::new(),
    };
    let age = changed.elapsed().unwrap_or_default().as_secs_f64();
    let submitted = submitted(path)?;
    let state = match (Live::read(path), &submitted) {
        (Some(live), _) => doing(&live),
        (None, Some(submitted)) if !submitted.is_ended() => submitted.doing(),
        _ => state(&records),
    };
    let planned = submitted.as_ref().map_or("", |s| s.plan.suite.as_str());
    let suite = records.first().map_or(planned, |r| r.suite.as_str());
    Ok(format!(
        "{name:<24} {suite:<16} {:>4} cells  {:>12} ago  {state}",
        records.len(),
        duration(age)
    ))
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
    /// Returns whether `collect` has written the run folder.
    fn is_ended(&self) -> bool {
        let last = self.nodes.last();
        last.is_some_and(|last| last.state == State::Done)
    }

    fn doing(&self) -> String {
        let waits = |node: &NodeState| matches!(node.state, State::Waiting | State::Running);
        let verb = match (self.scheduler, self.nodes.iter().any(waits)) {
            (None, _) => "planned".to_owned(),
            (Some(scheduler), true) => format!("submitted to {scheduler}"),
            (Some(scheduler), false) => format!("stopped on {scheduler}"),
        };
        format!("{verb}: {}", counted(&self.nodes))
    }
}

/// Prints the nodes of a submitted run.
fn nodes(folder: &Path) -> Result<(), Failure> {
    let Some(Submitted { plan, nodes, .. }) = submitted(folder)? else {
        return Ok(());
    };
    put!("{}", counted(&nodes))?;
    for (node, state) in plan.nodes.iter().zip(&nodes) {
        let job = state.job.as_deref().unwrap_or_default();
        let host = state.host.as_ref().map(|host| format!(" on {host}"));
        put!(
            "{:<50} {:<8} {job}{}",
            node.id,
            state.state,
            host.unwrap_or_default()
        )?;
    }
    Ok(())
}

/// Describes how a run ended.
fn state(records: &[Record]) -> String {
    let count = |status: &str| records.iter().filter(|r| r.status == status).count();
    let parts = ["failed", "pending", "skipped"].map(|status| (status, count(status)));
    let rest: Vec<String> = parts
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(status, n)| format!("{n} {status}"))
        .collect();
    match (rest.is_empty(), count("pending")) {
        (true, _) => "done".to_owned(),
        (false, 0) => format!("done, {}", rest.join(", ")),
        _ => format!("stopped, {}", rest.join(", ")),
    }
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
    format!(
        "running: {} [{}/{}]{part}{left}",
        live.label, live.index, live.total
    )
}
