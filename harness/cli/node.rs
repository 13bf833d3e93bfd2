//! `bench node`: computes one node of a submitted run and writes down how it ended.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;

use super::args::{Args, NodeOptions, RunOptions, Verb};
use super::failure::{Failure, STOP};
use super::running;
use crate::registry::Registry;
use crate::stages::common::context::architecture;
use crate::store::{host, job};
use crate::submit::{Folder, NodeFile, Plan, State, requeue, states};
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
    let write = |status| {
        let (host, job) = (host(), job());
        folder.write_node(index, &NodeFile { host, job, status })
    };
    write(None)?;
    let start = Instant::now();
    let ended = compute(&folder, &plan, index, &arguments, registry);
    let status = match &ended {
        Ok(()) => 0,
        Err(failure) => failure.status(),
    };
    write(Some(status))?;
    if matches!(ended, Err(Failure::Interrupted)) && requeue(start.elapsed())? {
        say!("the time limit is near; Slurm continues this node in another job");
    }
    match ended {
        Err(Failure::Wrong(message)) if options.exit_zero => Ok(say!("error: {message}")),
        Err(Failure::Failed | Failure::Waits) if options.exit_zero => Ok(()),
        ended => ended,
    }
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
    options.setup.text = Some(Suite::text(&folder.suite())?);
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
    let is_last = index + 1 == plan.nodes.len();
    for pause in 0..=PAUSES {
        let all = states(folder, plan, None, None)?;
        let input = |id: &str| plan.nodes.iter().position(|node| node.id == id);
        let inputs = plan.nodes[index].after.iter().filter_map(|id| input(id));
        let inputs: Vec<usize> = inputs.collect();
        let lost = |at: &&usize| matches!(all[**at].state, State::Failed | State::Ended);
        if let Some(at) = inputs.iter().find(lost).filter(|_| !is_last) {
            let (id, input) = (&plan.nodes[index].id, &plan.nodes[*at].id);
            say!("{id} is not computed: {input} has no result");
            return Err(Failure::Waits);
        }
        let ended = running::run(options, registry, true);
        let done = |at: &usize| matches!(all[*at].state, State::Done | State::Stored);
        match ended {
            Err(Failure::Waits) if pause < PAUSES && inputs.iter().all(done) => {}
            Err(Failure::Waits) if inputs.iter().all(done) => {
                say!(
                    "all inputs were computed, but the store has none for {}: were they computed on another kind of processor or GPU, or \
                     in another store?",
                    architecture()
                );
                return Err(Failure::Waits);
            }
            ended => return ended,
        }
        sleep()?;
    }
    Err(Failure::Waits)
}

fn sleep() -> Result<(), Failure> {
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        if STOP.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
