//! Slurm: a script per job array, and `collect` as the last job.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::folder::{Folder, Jobs, LOGS, Plan};
use super::groups::{Group, groups};
use super::scheduler::{Live, Scheduler, output, quoted};
use crate::store::job;

/// Seconds between the signal and the end of the time limit, for writing the state.
const NOTICE: u32 = 120;
/// A node that was stopped sooner would make no progress within its time limit.
const PROGRESS: Duration = Duration::from_secs(30);
/// Options of sbatch that would change the graph, and their short forms.
const REFUSED: &[(&str, &str)] = &[
    ("--array", "-a"),
    ("--dependency", "-d"),
    ("--wait", "-W"),
    ("--wrap", ""),
    ("--parsable", ""),
    ("--test-only", ""),
    ("--output", "-o"),
    ("--error", "-e"),
    ("--chdir", "-D"),
    ("--no-requeue", ""),
    // `squeue` is asked about the local cluster only.
    ("--clusters", "-M"),
];

/// Variables that have the effect of refused options, that override options of the scripts, or that would name the job of the submission to its nodes.
const VARIABLES: &[&str] = &[
    "SBATCH_ARRAY_INX",
    "SBATCH_WAIT",
    "SBATCH_NO_REQUEUE",
    "SBATCH_OUTPUT",
    "SBATCH_ERROR",
    "SBATCH_EXPORT",
    "SBATCH_SIGNAL",
    "SBATCH_CLUSTERS",
    "SLURM_CLUSTERS",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "HQ_JOB_ID",
    "HQ_TASK_ID",
    "HQ_CPUS",
];

/// What Slurm's programs say on a machine that does not reach a cluster.
const UNREACHED: &[&str] = &[
    "Unable to contact slurm controller",
    "Could not establish a configuration source",
    "Unable to establish configuration source",
    "failed to fetch config",
];

/// A script of a group, or of `collect`.
struct Job {
    /// Name of its file.
    name: String,
    /// The group; `None` for `collect`.
    group: Option<Group>,
    /// The tasks of the array and the indices of their nodes.
    tasks: Vec<(usize, usize)>,
}

/// Refuses options that would change the graph.
pub(super) fn check(options: &[String]) -> anyhow::Result<()> {
    for option in options {
        let name = option.split('=').next().unwrap_or_default();
        let is_short = |short: &str| !short.is_empty() && option.starts_with(short);
        // sbatch accepts abbreviations: `--arr=1`.
        let is_long = |long: &str| name.len() > 3 && long.starts_with(name);
        let refused = REFUSED
            .iter()
            .any(|(long, short)| match option.starts_with("--") {
                true => is_long(long),
                false => is_short(short),
            });
        if refused {
            bail!(
                "-- {option}: expected options for resources, such as --partition, --time or --mem; `bench submit` sets {name} itself"
            );
        }
    }
    Ok(())
}

/// Calls a program of Slurm, and says what to do if no controller answers.
fn called(command: &mut Command) -> anyhow::Result<String> {
    let is_unreached = |error: &anyhow::Error| {
        let said = error.to_string();
        UNREACHED.iter().any(|part| said.contains(part))
    };
    output(command).map_err(|error| match is_unreached(&error) {
        true => anyhow!(
            "{error}; no controller of Slurm answers: run the command where `scontrol ping` says that one is up (a login node of the cluster), \
             or use --dry-run"
        ),
        false => error,
    })
}

fn jobs_of(plan: &Plan) -> Vec<Job> {
    let groups = groups(&plan.nodes);
    let width = groups.len().to_string().len().max(2);
    let mut jobs: Vec<Job> = groups
        .into_iter()
        .enumerate()
        .map(|(at, group)| Job {
            name: format!("{at:0width$}-{}", group.stage),
            tasks: group.tasks.clone(),
            group: Some(group),
        })
        .collect();
    let last = plan.nodes.len() - 1;
    jobs.push(Job {
        name: format!("{:0width$}-{}", jobs.len(), plan.nodes[last].stage),
        group: None,
        tasks: vec![(0, last)],
    });
    jobs
}

/// Writes the scripts and returns the commands that submit them, for people.
pub(super) fn write(
    folder: &Folder,
    plan: &Plan,
    options: &[String],
) -> anyhow::Result<Vec<String>> {
    let jobs = jobs_of(plan);
    let folder_line = format!("cd {}", quoted(&folder.path().to_string_lossy()));
    let mut lines = vec![folder_line];
    for job in &jobs {
        folder.write(&format!("{}.sbatch", job.name), &script(plan, job, options))?;
        let words = words(&jobs, job, options, |at| {
            format!(
                "JOB_{}",
                jobs[at].name.split('-').next().unwrap_or_default()
            )
        });
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        lines.push(format!("sbatch {}", words.join(" ")));
    }
    Ok(lines)
}

fn script(plan: &Plan, job: &Job, options: &[String]) -> String {
    let mut text = String::from("#!/usr/bin/env bash\n");
    let mut set = |option: String| _ = writeln!(text, "#SBATCH {option}");
    let stage = job.name.split_once('-').map_or("", |(_, stage)| stage);
    set(format!("--job-name=tessera-{stage}"));
    match job.group {
        Some(_) => {
            set(format!("--array={}", ranges(&job.tasks)));
            set(format!("--output={LOGS}/{}-%a.log", job.name));
            set("--kill-on-invalid-dep=yes".into());
        }
        None => set(format!("--output={LOGS}/{}.log", job.name)),
    }
    set("--open-mode=append".into());
    set("--nodes=1".into());
    set("--ntasks=1".into());
    set("--export=ALL".into());
    // After a node's failure or a preemption the same node resumes, on any machine.
    set("--requeue".into());
    set(format!("--signal=B:TERM@{NOTICE}"));
    if let Some(threads) = plan.threads {
        set(format!("--cpus-per-task={threads}"));
    }
    let chooses_gpus = options.iter().any(|option| {
        option.starts_with("--gpus") || option.starts_with("--gres") || option.starts_with("-G")
    });
    // NCCL must see all GPUs of a machine, so not `--gpus-per-task`.
    if plan.gpu && !chooses_gpus {
        set("--gpus-per-node=1".into());
    }
    let index = match (&job.group, &job.tasks[..]) {
        (None, [(_, node)]) => node.to_string(),
        (_, tasks) => {
            let tasks = tasks.iter().map(|(task, node)| format!("[{task}]={node}"));
            let tasks: Vec<String> = tasks.collect();
            let tasks = tasks.join(" ");
            let about = "# The node of each task, by its index in plan.json.";
            let _ = writeln!(text, "{about}\nnodes=({tasks})");
            "\"${nodes[$SLURM_ARRAY_TASK_ID]}\"".to_owned()
        }
    };
    // `exec`: the signal reaches the program.
    let (program, out) = (quoted(&plan.program), quoted(&plan.out));
    let _ = writeln!(text, "exec {program} node {out} {index}");
    text
}

/// Returns the arguments of sbatch. `id` returns the id of an earlier job.
fn words(jobs: &[Job], job: &Job, options: &[String], id: impl Fn(usize) -> String) -> Vec<String> {
    let conditions: Vec<String> = match &job.group {
        Some(group) => {
            let rows = group.rows.iter();
            let rows = rows.map(|before| format!("aftercorr:{}", id(*before)));
            let single = group.single.iter();
            let single = single.map(|(before, task)| format!("afterok:{}_{task}", id(*before)));
            rows.chain(single).collect()
        }
        None => {
            let all = (0..jobs.len() - 1).map(|at| format!("afterany:{}", id(at)));
            all.collect()
        }
    };
    let mut words = vec!["--parsable".to_owned()];
    words.extend_from_slice(options);
    if !conditions.is_empty() {
        words.push(format!("--dependency={}", conditions.join(",")));
    }
    words.push(format!("{}.sbatch", job.name));
    words
}

/// Submits the scripts. If sbatch refuses one, the others are cancelled.
pub(super) fn submit(folder: &Folder, plan: &Plan, options: &[String]) -> anyhow::Result<Jobs> {
    let jobs = jobs_of(plan);
    let mut done = Jobs {
        scheduler: Scheduler::Slurm,
        ids: Vec::new(),
        name: None,
        nodes: Vec::new(),
    };
    for job in &jobs {
        let words = words(&jobs, job, options, |at| done.ids[at].clone());
        let mut sbatch = Command::new("sbatch");
        sbatch.args(words).current_dir(folder.path());
        VARIABLES
            .iter()
            .for_each(|name| _ = sbatch.env_remove(name));
        let said = called(&mut sbatch);
        let id = match said {
            // With several clusters, the name of the cluster follows.
            Ok(said) => said.trim().split(';').next().unwrap_or_default().to_owned(),
            Err(error) => return Err(cancelled(folder, &done, error)?),
        };
        for (task, node) in &job.tasks {
            let name = match job.group {
                Some(_) => format!("{id}_{task}"),
                None => id.clone(),
            };
            done.nodes.push((*node, name));
        }
        done.ids.push(id);
        if let Err(error) = folder.write_jobs(&done) {
            return Err(cancelled(folder, &done, error)?);
        }
    }
    Ok(done)
}

/// Cancels the jobs of a submission that cannot be completed, and returns the reason.
fn cancelled(folder: &Folder, done: &Jobs, reason: anyhow::Error) -> anyhow::Result<anyhow::Error> {
    if !done.ids.is_empty() {
        output(Command::new("scancel").args(&done.ids))?;
    }
    folder.forget_jobs()?;
    Ok(reason)
}

/// Returns the jobs and tasks in the queue.
pub(super) fn live(jobs: &Jobs) -> anyhow::Result<Live> {
    let mut squeue = Command::new("squeue");
    squeue.args(["--noheader", "--array", "--format=%t %F %K", "--jobs"]);
    let said = match called(squeue.arg(jobs.ids.join(","))) {
        // Slurm forgets finished jobs after some minutes.
        Err(error) if error.to_string().contains("Invalid job id") => return Ok(Live::new()),
        said => said?,
    };
    let task = |line: &str| {
        let mut words = line.split_whitespace();
        let (state, job) = (words.next()?, words.next()?);
        let runs = state != "PD";
        match words.next().and_then(|task| task.parse::<usize>().ok()) {
            Some(task) => Some((format!("{job}_{task}"), runs)),
            None => Some((job.to_owned(), runs)),
        }
    };
    Ok(said.lines().filter_map(task).collect())
}

/// Puts the present job back into the queue if its time limit stopped it. A job that a user cancels, or that Slurm itself puts back, is not
/// `RUNNING` any more. `kept` is whether its node goes on where it was. Returns whether it is in the queue again.
///
/// # Errors
/// If Slurm does not answer, or another attempt would make no progress.
pub fn requeue(ran: Duration, kept: bool) -> anyhow::Result<bool> {
    let job = job();
    match job.as_ref().and_then(|job| job.strip_prefix("slurm ")) {
        Some(job) => requeue_job(job, (ran, kept), |name| Command::new(name)),
        None => Ok(false),
    }
}

/// As [`requeue`], of a job, with the programs that `program` finds.
fn requeue_job(
    job: &str,
    (ran, kept): (Duration, bool),
    program: impl Fn(&str) -> Command,
) -> anyhow::Result<bool> {
    let mut squeue = program("squeue");
    let state = called(squeue.args(["--noheader", "--format=%T", "--jobs", job]))?;
    if state.trim() != "RUNNING" {
        return Ok(false);
    }
    if !kept {
        bail!(
            "the time limit is too short: this stage begins again at its start; ask for more time with `bench submit ... -- --time=`"
        );
    }
    if ran < PROGRESS {
        bail!(
            "the time limit left less than 30 seconds of work; ask for more time with `bench submit ... -- --time=`"
        );
    }
    called(program("scontrol").args(["requeue", job]))?;
    Ok(true)
}

/// Returns tasks as Slurm writes them: `0-3,7`.
fn ranges(tasks: &[(usize, usize)]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for (task, _) in tasks {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *task => *end = *task,
            _ => parts.push((*task, *task)),
        }
    }
    let text = |(start, end): &(usize, usize)| match start == end {
        true => start.to_string(),
        false => format!("{start}-{end}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// A folder with a `squeue` that says `state`, and a `scontrol` that writes its arguments into `calls`.
    fn slurm(state: &str, scontrol: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let calls = dir.path().join("calls");
        for (name, text) in [
            ("squeue", state.to_owned()),
            (
                "scontrol",
                format!("echo \"$@\" >'{}'; {scontrol}", calls.display()),
            ),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    /// Returns what happens to a job that has run for `seconds`, and what `scontrol` was told.
    fn requeued(
        dir: &tempfile::TempDir,
        seconds: u64,
        kept: bool,
    ) -> (Result<bool, String>, String) {
        let program = |name: &str| {
            let mut shell = Command::new("sh");
            shell.arg(dir.path().join(name));
            shell
        };
        let ran = (Duration::from_secs(seconds), kept);
        let found = requeue_job("17_3", ran, program).map_err(|error| error.to_string());
        let calls = fs::read_to_string(dir.path().join("calls"));
        (found, calls.unwrap_or_default())
    }

    #[test]
    fn a_job_near_its_time_limit_goes_back_into_the_queue() {
        let slurm = slurm("[ \"$4\" = 17_3 ] && echo RUNNING", "");
        let (found, calls) = requeued(&slurm, 30, true);
        assert_eq!((found, calls.as_str()), (Ok(true), "requeue 17_3\n"));
    }

    #[test]
    fn a_job_that_a_user_or_slurm_stopped_does_not_go_back() {
        for state in ["CANCELLED", "COMPLETING", "PENDING", "PREEMPTED"] {
            let slurm = slurm(&format!("echo {state}"), "");
            for kept in [true, false] {
                let (found, calls) = requeued(&slurm, 30, kept);
                assert_eq!((found, calls.as_str()), (Ok(false), ""), "{state}");
            }
        }
    }

    #[test]
    fn a_job_that_would_make_no_progress_ends_with_the_remedy() {
        let slurm = slurm("echo RUNNING", "");
        for (seconds, kept, part) in [(29, true, "30 seconds"), (3000, false, "begins again")] {
            let (found, calls) = requeued(&slurm, seconds, kept);
            let error = found.unwrap_err();
            assert!(error.contains(part) && error.contains("--time="), "{error}");
            assert_eq!(calls, "");
        }
    }

    #[test]
    fn errors_of_slurm_reach_the_user_with_the_remedy_if_it_is_known() {
        let refused = slurm("echo RUNNING", "echo 'Access denied' >&2; exit 1");
        let error = requeued(&refused, 30, true).0.unwrap_err();
        assert!(error.contains("Access denied"), "{error}");
        assert!(!error.contains("scontrol ping"), "{error}");
        for said in UNREACHED {
            let away = slurm(&format!("echo 'squeue: error: {said} (x)' >&2; exit 1"), "");
            let error = requeued(&away, 30, true).0.unwrap_err();
            assert!(
                error.contains(said) && error.contains("scontrol ping"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_gpu_is_requested_unless_the_user_does() {
        let node = json!({"id": "collect", "stage": "collect", "after": [], "stored": false, "gpu": false, "ranks_max": 1});
        let plan = json!({"version": 1, "suite": "s", "program": "/b", "directory": "/", "out": "/o", "arguments": [], "gpu": true, "nodes": [node]});
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let last = &jobs_of(&plan)[0];
        let script = |options: &[&str]| {
            script(
                &plan,
                last,
                &options.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        assert!(script(&[]).contains("#SBATCH --gpus-per-node=1\n"));
        for own in ["--gpus-per-node=8", "--gres=gpu:a100:1", "-G2"] {
            assert!(!script(&[own]).contains("--gpus-per-node"), "{own}");
        }
    }

    #[test]
    fn tasks_are_written_as_ranges() {
        let tasks = [0, 1, 2, 7, 9, 10].map(|task| (task, 0));
        assert_eq!(ranges(&tasks), "0-2,7,9-10");
    }

    #[test]
    fn options_that_would_change_the_graph_are_refused() {
        let check = |option: &str| check(&[option.to_owned()]);
        for option in [
            "--array=1",
            "-d",
            "-dafterok:1",
            "--wrap=x",
            "-a1",
            "--arr=1",
            "--no-req",
            "--clusters=other",
            "-Mother",
        ] {
            assert!(check(option).is_err(), "{option}");
        }
        for option in [
            "--partition=gpu",
            "-p",
            "gpu",
            "--account=a",
            "--time=1:00",
            "--no-kill",
        ] {
            assert!(check(option).is_ok(), "{option}");
        }
    }
}
