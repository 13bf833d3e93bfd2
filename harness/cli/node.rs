//! `bench node`: computes one node of a submitted run and writes down how it ended.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;

use super::args::{Args, NodeOptions, RunOptions, Verb};
use super::failure::{Failure, STOP};
use super::running;
use crate::registry::Registry;
use crate::stages::common::context::architecture;
use crate::store::{host, job};
use crate::submit::{Folder, NodeFile, Plan, requeue};
use crate::suite::Suite;

/// Pause before a node whose inputs are done but not visible looks again.
const PAUSE: Duration = Duration::from_secs(10);
/// Number of pauses: caches of directories of other machines last up to a minute.
const PAUSES: usize = 7;

pub fn node(options: &NodeOptions, registry: &Registry) -> Result<(), Failure> {
    let folder = Folder::of(&options.run);
    let path = folder.path().display();
    let plan = folder.plan()?;
    let plan = plan.with_context(|| format!("{path}: expected a folder of `bench submit`"))?;
    let (index, count) = (options.index, plan.nodes.len());
    if index >= count {
        return Err(Failure::Wrong(format!(
            "node {index}: expected 0 to {}, the nodes of {path}/plan.json",
            count.saturating_sub(1)
        )));
    }
    let arguments = arguments(&plan, index, &folder)?;
    std::env::set_current_dir(&plan.directory).with_context(|| plan.directory.clone())?;
    let write = |status, lost| {
        let (host, job) = (host(), job());
        let file = NodeFile {
            host,
            job,
            status,
            lost,
        };
        folder.write_node(index, &file)
    };
    let ended = match inputs(&folder, &plan, index)? {
        Inputs::Lost(input) => {
            say!(
                "{} is not computed: {input} has no result",
                plan.nodes[index].id
            );
            // No later attempt can succeed.
            write(Some(Failure::Failed.status()), Some(input))?;
            Err(Failure::Failed)
        }
        _ => {
            write(None, None)?;
            let start = Instant::now();
            let ended = compute(&folder, &plan, index, &arguments, registry);
            write(Some(ended.as_ref().err().map_or(0, Failure::status)), None)?;
            if matches!(ended, Err(Failure::Interrupted)) && requeue(start.elapsed())? {
                say!("the time limit is near; Slurm continues this node later");
            }
            ended
        }
    };
    match ended {
        Err(Failure::Wrong(message)) if options.exit_zero => {
            say!("error: {message}");
            Ok(())
        }
        Err(Failure::Failed | Failure::Waits) if options.exit_zero => Ok(()),
        ended => ended,
    }
}

/// What is known of the nodes that a node waits for.
enum Inputs {
    /// All have results.
    Done,
    /// The node of this id has none and never will.
    Lost(String),
    /// Some are not known to have ended.
    Open,
}

/// Returns what the files of a node's inputs say. `collect` does not need them all.
fn inputs(folder: &Folder, plan: &Plan, index: usize) -> Result<Inputs, Failure> {
    let after: HashSet<&String> = plan.nodes[index].after.iter().collect();
    let is_last = index + 1 == plan.nodes.len();
    let mut found = Inputs::Done;
    for (at, node) in plan.nodes.iter().enumerate() {
        if node.stored || !after.contains(&node.id) {
            continue;
        }
        match folder.node(at)?.and_then(|file| file.status) {
            Some(0) => {}
            Some(1 | 2) if !is_last => return Ok(Inputs::Lost(node.id.clone())),
            _ => found = Inputs::Open,
        }
    }
    Ok(found)
}

/// Returns the arguments of `bench run` for a node.
fn arguments(plan: &Plan, index: usize, folder: &Folder) -> Result<RunOptions, Failure> {
    let mut words = vec!["bench".to_owned(), "run".to_owned()];
    words.extend_from_slice(&plan.arguments);
    match index + 1 == plan.nodes.len() {
        true => words.extend(["--collect".to_owned(), format!("--out={}", plan.out)]),
        false => words.push(format!("--node={}", plan.nodes[index].id)),
    }
    let Verb::Run(mut options) = Args::try_parse_from(words)?.verb else {
        return Err(Failure::Wrong("expected arguments of `bench run`".into()));
    };
    options.setup.text = Some((options.setup.suite.clone(), Suite::text(&folder.suite())?));
    options.setup.threads = options.setup.threads.or_else(granted);
    Ok(options)
}

/// Returns the number of cores that the scheduler gave this job. Not every cluster hides the others.
fn granted() -> Option<usize> {
    let get = |name| std::env::var(name).ok();
    let cores = get("SLURM_CPUS_ON_NODE").and_then(|cores| cores.parse().ok());
    cores.or_else(|| get("HQ_CPUS").map(|cores| cores.split(',').count()))
}

/// Computes a node. If all its inputs are done but one is not visible yet, waits for it.
fn compute(
    folder: &Folder,
    plan: &Plan,
    index: usize,
    options: &RunOptions,
    registry: &Registry,
) -> Result<(), Failure> {
    for _ in 0..PAUSES {
        let ended = running::run(options, registry, true);
        if !matches!(ended, Err(Failure::Waits)) {
            return ended;
        }
        if !matches!(inputs(folder, plan, index)?, Inputs::Done) {
            return ended;
        }
        sleep()?;
    }
    say!(
        "the inputs were computed, but this machine ({}) finds none in the store: was it another kind of processor or GPU?",
        architecture()
    );
    Err(Failure::Waits)
}

fn sleep() -> Result<(), Failure> {
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        if STOP.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
