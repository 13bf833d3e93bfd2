//! `bench node`: computes one node of a submitted run and writes down how it ended.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser as _;

use super::args::{Args, NodeOptions, RunOptions, Verb};
use super::failure::Failure;
use super::running;
use crate::registry::Registry;
use crate::stages::common::machine::architecture;
use crate::store::{host, job};
use crate::submit::{Folder, NodeFile, Plan, requeue};
use crate::suite::Suite;

pub fn node(options: &NodeOptions, registry: &Registry) -> Result<(), Failure> {
    let run = std::path::absolute(&options.run)?;
    let folder = Folder::of(&run);
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
    std::env::set_current_dir(&plan.directory).with_context(|| {
        format!(
            "{}: expected the folder of the submission on this machine, too",
            plan.directory
        )
    })?;
    check_place(&run, Path::new(&plan.out))?;
    let ended = recorded(&folder, &plan, index, || {
        compute(&folder, &plan, index, &arguments, registry)
    });
    match ended {
        Err(Failure::Wrong(message)) if options.exit_zero => {
            say!("error: {message}");
            Ok(())
        }
        Err(Failure::Failed | Failure::Waits) if options.exit_zero => Ok(()),
        ended => ended,
    }
}

/// Refuses a run folder that was renamed since the submission: the last node would write its results into a new one.
fn check_place(run: &Path, planned: &Path) -> Result<(), Failure> {
    let place = |path: &Path| path.metadata().ok().map(|about| (about.dev(), about.ino()));
    if place(run) == place(planned) {
        return Ok(());
    }
    let (run, planned) = (run.display(), planned.display());
    Err(Failure::Wrong(format!(
        "{run} is not the run folder of its plan.json, which is {planned}; rename it back, or submit the suite again"
    )))
}

/// Calls `compute` unless an input is lost, and writes down how it ended.
fn recorded(
    folder: &Folder,
    plan: &Plan,
    index: usize,
    compute: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut file = NodeFile {
        host: host(),
        job: job(),
        process: std::process::id(),
        status: None,
        lost: None,
    };
    if let Inputs::Lost(input) = inputs(folder, plan, index)? {
        let id = &plan.nodes[index].id;
        say!("{id} is not computed: {input} has no result");
        // No later attempt can succeed.
        file.status = Some(Failure::Failed.status());
        file.lost = Some(input);
        folder.write_node(index, &file)?;
        return Err(Failure::Failed);
    }
    folder.write_node(index, &file)?;
    let start = Instant::now();
    let ended = compute();
    let begun = folder.node(index)?;
    file.status = Some(ended.as_ref().err().map_or(0, Failure::status));
    let mine = |other: &NodeFile| (&other.host, other.process) == (&file.host, file.process);
    // The scheduler may have begun this node elsewhere, for instance because it lost this machine.
    if ended.is_ok() || begun.is_none_or(|begun| mine(&begun)) {
        folder.write_node(index, &file)?;
    }
    if let Err(Failure::Interrupted { kept }) = ended
        && requeue(start.elapsed(), kept)?
    {
        say!("the time limit is near; Slurm continues this node later");
    }
    ended
}

/// What is known of the nodes that a node waits for.
enum Inputs {
    /// All have results, or, for `collect`, have ended.
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
            Some(1 | 2) if is_last => {}
            Some(1 | 2) => return Ok(Inputs::Lost(node.id.clone())),
            _ => found = Inputs::Open,
        }
    }
    Ok(found)
}

/// Returns the arguments of `bench run` for a node.
fn arguments(plan: &Plan, index: usize, folder: &Folder) -> Result<RunOptions, Failure> {
    let mut words = vec!["bench".to_owned(), "run".to_owned()];
    words.extend_from_slice(&plan.arguments);
    // So that a node does not inspect every image: they are compared with the plan's digests when they are read.
    let fingerprint = plan
        .nodes
        .first()
        .and_then(|scan| scan.fingerprint.as_ref());
    words.extend(fingerprint.map(|fingerprint| format!("--scan={fingerprint}")));
    match index + 1 == plan.nodes.len() {
        true => words.extend(["--collect".to_owned(), format!("--out={}", plan.out)]),
        false => words.push(format!("--node={}", plan.nodes[index].id)),
    }
    let parsed = Args::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        let (plan, first) = (
            folder.path().display(),
            text.lines().next().unwrap_or_default(),
        );
        let wrong = first.trim_start_matches("error: ");
        Failure::Wrong(format!(
            "{plan}/plan.json: arguments: {wrong}; submit the suite again"
        ))
    });
    let Verb::Run(mut options) = parsed?.verb else {
        return Err(Failure::Wrong("expected arguments of `bench run`".into()));
    };
    let (name, copy) = (options.setup.suite.clone(), folder.suite());
    options.setup.text = Some((name, Suite::text(&copy)?));
    options.setup.copy = Some(copy);
    options.awaits = true;
    options.setup.threads = options.setup.threads.or_else(granted);
    Ok(options)
}

/// Returns the number of cores that the scheduler gave this job. Not every cluster hides the others.
fn granted() -> Option<usize> {
    let get = |name| std::env::var(name).ok();
    // First: a worker of HyperQueue may itself run in a job of Slurm, whose cores its tasks share.
    let cores = get("HQ_CPUS").map(|cores| cores.split(',').count());
    cores.or_else(|| get("SLURM_CPUS_ON_NODE")?.parse().ok())
}

/// Computes a node, which waits for inputs that a cache of names may hide.
fn compute(
    folder: &Folder,
    plan: &Plan,
    index: usize,
    options: &RunOptions,
    registry: &Registry,
) -> Result<(), Failure> {
    let ended = running::run(options, registry, true);
    if matches!(ended, Err(Failure::Waits)) && matches!(inputs(folder, plan, index)?, Inputs::Done)
    {
        say!(
            "the inputs have ended, but this machine ({}) does not find all their results in the store: was it another kind of processor or GPU? (`bench run SUITE --collect --arch ARCH --gpu GPU` looks up those of another one)",
            architecture()
        );
    }
    ended
}
