//! `bench submit`: writes a suite's graph as jobs of a scheduler, submits them, and waits for them if asked.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::args::{SubmitOptions, To};
use super::failure::{Failure, STOP};
use super::lookup;
use super::process;
use super::running::{self, Opened, place, pool};
use super::setup_args::{Device, Precision};
use super::store;
use crate::folder::held::RunFolder;
use crate::registry::Registry;
use crate::run::nodes::{self, PlannedNode};
use crate::store::hidden;
use crate::submit::{Folder, Jobs, Plan, Scheduler, counted, quoted, states};
use crate::suite::Suite;

/// Pause between two questions to the scheduler.
const PAUSE: Duration = Duration::from_secs(2);
/// Number of questions in a row without an answer after which waiting ends.
const PATIENCE: usize = 150;

impl From<To> for Scheduler {
    fn from(to: To) -> Self {
        match to {
            To::Slurm => Self::Slurm,
            To::Hq => Self::Hq,
        }
    }
}

pub fn submit(options: &SubmitOptions, registry: &Registry) -> Result<(), Failure> {
    let scheduler = Scheduler::from(options.to);
    scheduler.check(&options.options)?;
    running::checkpoint_every(options.checkpoint_every.unwrap_or_default())?;
    running::at_most("--workers", options.workers, running::MOST_THREADS)?;
    lookup::check(&options.setup, true)?;
    let gpu = device(options)?;
    let program = program(options, gpu.0)?;
    let plan = || planned(options, registry, gpu, program);
    let (plan, suite) = pool(options.setup.threads)?.install(plan)?;
    let (out, folder) = (PathBuf::from(&plan.out), Folder::of(Path::new(&plan.out)));
    if let Some((earlier, jobs)) = live(&folder)? {
        return attach(options, &folder, (&earlier, &plan), &jobs);
    }
    let lock = RunFolder::prepare(&out, &plan.suite, &process::command_line())?;
    let guard = folder.lock()?;
    if let Some((earlier, jobs)) = live(&folder)? {
        // Another process has submitted it in the meantime.
        drop((lock, guard));
        return attach(options, &folder, (&earlier, &plan), &jobs);
    }
    folder.begin(&plan, &suite)?;
    let commands = scheduler.write(&folder, &plan, &options.options)?;
    about(&plan)?;
    if options.dry_run {
        for command in &commands {
            put!("{command}")?;
        }
        return Ok(());
    }
    // `collect` may run before all jobs are submitted, and writes into the run folder.
    drop(lock);
    let jobs = scheduler.submit(&folder, &plan, &options.options)?;
    drop(guard);
    put!("{} jobs {}", scheduler.name(), jobs.ids.join(" "))?;
    put!(
        "`bench runs {}` shows them, `{}` ends them",
        quoted(&plan.out),
        scheduler.cancel(&jobs)
    )?;
    match options.wait {
        true => wait(&folder, &plan, &jobs),
        false => Ok(()),
    }
}

/// Returns whether nodes compute on a GPU, and whether this machine computes on one. Login nodes usually have none.
fn device(options: &SubmitOptions) -> Result<(bool, bool), Failure> {
    let chosen = options.setup.device;
    if options.setup.gpu.is_some() {
        return Ok((true, false));
    }
    match place(chosen, tessera_kernels::device::gpu()) {
        Ok((on_gpu, _)) => Ok((on_gpu, on_gpu)),
        Err(_) if chosen == Device::Cuda => Ok((true, false)),
        Err(error) => Err(error),
    }
}

/// Returns the program that computes the nodes.
fn program(options: &SubmitOptions, gpu: bool) -> Result<String, Failure> {
    let present = process::program();
    match &options.program {
        Some(path) if !path.is_file() => Err(Failure::Wrong(format!(
            "--program {}: found no such file, expected the program that computes the nodes",
            path.display()
        ))),
        Some(path) => text(path),
        None if gpu && !tessera_kernels::device::has_cuda() => Err(Failure::Wrong(format!(
            "{} was built without CUDA, and the nodes compute on a GPU: name a program that was built with `--features cuda` with --program FILE, \
             or compute on the CPU (--device cpu, without --gpu)",
            present.display()
        ))),
        None => text(present),
    }
}

/// Plans the suite. Returns also its text.
fn planned(
    options: &SubmitOptions,
    registry: &Registry,
    (gpu, has_gpu): (bool, bool),
    program: String,
) -> Result<(Plan, String), Failure> {
    let suite = Suite::text(&options.setup.suite)?;
    let train_here = (true, has_gpu);
    let opened = Opened::new(&options.setup, registry, train_here, !options.dry_run)?;
    let cx = opened.planner(registry)?;
    let out = opened.out(options.out.as_deref())?;
    let nodes = nodes::plan(&cx, opened.depth, (Some(&out), false));
    let mut nodes = nodes.map_err(|e| running::failure(&cx, e))?;
    if gpu && !has_gpu && options.setup.gpu.is_none() {
        // Keys name the GPU, which is unknown here.
        nodes.iter_mut().for_each(|node| node.stored = false);
    }
    let plan = Plan {
        version: Plan::VERSION,
        suite: opened.suite.file.name.clone(),
        program,
        directory: text(Path::new("."))?,
        out: text(&out)?,
        arguments: arguments(options, gpu)?,
        gpu,
        threads: options.setup.threads,
        nodes,
    };
    Ok((plan, suite))
}

/// Returns the arguments of `bench run` for every node, with absolute paths.
fn arguments(options: &SubmitOptions, gpu: bool) -> Result<Vec<String>, Failure> {
    let setup = &options.setup;
    let store = text(&store::folder(setup.store.as_deref()))?;
    let mut words = vec![text(&setup.suite)?, format!("--store={store}")];
    words.extend(setup.set.iter().map(|set| format!("--set={set}")));
    words.extend(setup.only.iter().map(|row| format!("--only={row}")));
    words.push(format!("--device={}", if gpu { "cuda" } else { "cpu" }));
    words.extend(setup.precision.map(|precision| {
        let name = match precision {
            Precision::Auto => "auto",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        format!("--precision={name}")
    }));
    words.extend(setup.threads.map(|n| format!("--threads={n}")));
    words.extend(options.workers.map(|n| format!("--workers={n}")));
    words.extend(setup.no_programs.then(|| "--no-programs".to_owned()));
    let every = options.checkpoint_every;
    words.extend(every.map(|seconds| format!("--checkpoint-every={seconds}")));
    Ok(words)
}

/// Returns an absolute path as text.
fn text(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        Failure::Wrong(format!(
            "{}: expected a path in UTF-8, because plans are text",
            path.display()
        ))
    })
}

/// Prints what is submitted and what is assumed.
fn about(plan: &Plan) -> Result<(), Failure> {
    let is_stored = |node: &&PlannedNode| node.stored;
    let stored = plan.nodes.iter().filter(is_stored).count();
    let device = if plan.gpu { "a GPU each" } else { "the CPU" };
    put!(
        "{}: {stored} nodes are stored, {} are submitted, on {device}",
        plan.suite,
        plan.nodes.len() - stored
    )?;
    put!(
        "every machine must have under the same paths: the program {}, the run folder {}, the store, the suite's files and images; and \
         processors of one kind",
        plan.program,
        plan.out
    )?;
    Ok(())
}

/// Returns the submission in the folder if its jobs have not ended.
fn live(folder: &Folder) -> Result<Option<(Plan, Jobs)>, Failure> {
    let Some(jobs) = folder.jobs()? else {
        return Ok(None);
    };
    let live = jobs.scheduler.live(&jobs).map_err(|error| {
        let path = folder.path().display();
        format!(
            "{path}: cannot tell whether {} has ended jobs {}: {error}; if they have ended, remove {path}/jobs.json",
            jobs.scheduler.name(),
            jobs.ids.join(" ")
        )
    });
    if live.map_err(Failure::Wrong)?.is_empty() {
        return Ok(None);
    }
    match folder.plan()? {
        Some(plan) => Ok(Some((plan, jobs))),
        None => Err(Failure::Wrong(format!(
            "{}: found no plan.json, but jobs {} of {} have not ended, and their nodes follow that plan; restore the file, or cancel the jobs",
            folder.path().display(),
            jobs.ids.join(" "),
            jobs.scheduler.name()
        ))),
    }
}

/// Waits for jobs that were submitted before, if they compute the same; otherwise refuses.
fn attach(
    options: &SubmitOptions,
    folder: &Folder,
    (earlier, plan): (&Plan, &Plan),
    jobs: &Jobs,
) -> Result<(), Failure> {
    let (name, ids) = (jobs.scheduler.name(), jobs.ids.join(" "));
    let suite = Suite::text(&options.setup.suite)?;
    let images = |plan: &Plan| plan.nodes.first().and_then(|scan| scan.fingerprint.clone());
    let same = earlier.arguments == plan.arguments
        && images(earlier) == images(plan)
        && Suite::text(&folder.suite())? == suite;
    let (submitted, all) = (jobs.nodes.len(), earlier.nodes.iter());
    let all = all.filter(|node| !node.stored).count();
    if same && submitted < all {
        return Err(Failure::Wrong(format!(
            "{}: only {submitted} of {all} nodes were submitted ({name} jobs {ids}): the submission goes on in another process, or was interrupted; \
             if it was, end them with `{}`, then run the same command again",
            plan.out,
            jobs.scheduler.cancel(jobs)
        )));
    }
    if options.wait && same {
        put!("already submitted: {name} jobs {ids}")?;
        return wait(folder, earlier, jobs);
    }
    let what = match same {
        true => "this run is already submitted",
        false => "another submission of this run folder is not finished",
    };
    Err(Failure::Wrong(format!(
        "{}: {what} ({name} jobs {ids}); the same command with --wait waits for it, `{}` ends it, `bench runs {}` shows it",
        plan.out,
        jobs.scheduler.cancel(jobs),
        quoted(&plan.out)
    )))
}

/// Waits until no job is in the queue.
fn wait(folder: &Folder, plan: &Plan, jobs: &Jobs) -> Result<(), Failure> {
    let (mut shown, mut unanswered) = (String::new(), 0);
    loop {
        if STOP.load(Ordering::Relaxed) {
            say!(
                "the jobs go on; `{}` ends them",
                jobs.scheduler.cancel(jobs)
            );
            return Err(Failure::Interrupted { kept: true });
        }
        match jobs.scheduler.live(jobs) {
            Ok(live) if live.is_empty() => break,
            Ok(live) => {
                unanswered = 0;
                let all = counted(&states(folder, plan, Some(jobs), Some(&live))?);
                if all != shown {
                    put!("{all}")?;
                    shown = all;
                }
            }
            Err(error) => {
                unanswered += 1;
                if unanswered > PATIENCE {
                    return Err(error.into());
                }
            }
        }
        sleep(PAUSE);
    }
    ended(folder, plan)
}

/// Returns how `collect` ended.
fn ended(folder: &Folder, plan: &Plan) -> Result<(), Failure> {
    let last = plan.nodes.len() - 1;
    let end = Instant::now() + hidden(folder.path());
    let status = loop {
        let status = folder.node(last)?.and_then(|file| file.status);
        if status.is_some() || Instant::now() >= end || STOP.load(Ordering::Relaxed) {
            break status;
        }
        sleep(PAUSE);
    };
    let (out, run) = (&plan.out, quoted(&plan.out));
    match status {
        Some(0) => Ok(put!("{out}: done")?),
        Some(1) => {
            say!("cells failed; see {out}/results.csv and `bench runs {run}`");
            Err(Failure::Failed)
        }
        Some(2) => Err(Failure::Wrong(format!(
            "`collect` ended with status 2; its log is in {}/logs",
            folder.path().display()
        ))),
        status => {
            let found = status.map_or("has not run".into(), |s| format!("ended with status {s}"));
            say!("`collect` {found}, so results are missing; see `bench runs {run}`");
            Err(Failure::Waits)
        }
    }
}
