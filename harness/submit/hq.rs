//! HyperQueue: one job file with a task per node.
//!
//! A failed task ends the tasks that wait for it, also `collect`. So tasks end with status 0 (`--exit-zero`), and a node whose input failed
//! ends immediately.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::folder::{Folder, HQ, Jobs, LOGS, Plan};
use super::scheduler::{Live, Scheduler, output, quoted};

/// Variables of the submission that tasks get, besides those whose names begin with `TESSERA_` and those that the suite uses. Tasks
/// otherwise have the environment of their worker.
const VARIABLES: &[&str] = &[
    "ORT_DYLIB_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
];

/// Returns the resources of each task: those of the user, as `cpus=4`, then the defaults.
pub(super) fn requests(
    options: &[String],
    threads: Option<usize>,
    gpu: bool,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for option in options {
        let parts = option.split_once('=');
        let parts = parts.filter(|(name, amount)| {
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
            let sign = |c: char| c.is_ascii_alphanumeric() || c == '/';
            starts && name.chars().all(sign) && !amount.is_empty()
        });
        let Some((name, amount)) = parts else {
            bail!(
                "-- {option}: expected resources of HyperQueue as NAME=AMOUNT, such as cpus=8 or gpus/nvidia=1"
            );
        };
        all.insert(name.to_owned(), amount.to_owned());
    }
    if let Some(threads) = threads {
        all.entry("cpus".into()).or_insert(threads.to_string());
    }
    if gpu {
        all.entry("gpus/nvidia".into()).or_insert("1".into());
    }
    Ok(all)
}

/// Writes the job file and returns the command that submits it.
pub(super) fn write(
    folder: &Folder,
    plan: &Plan,
    options: &[String],
) -> anyhow::Result<Vec<String>> {
    let path = folder.path().to_string_lossy().into_owned();
    if path.contains("%{") {
        bail!("{path}: HyperQueue would replace `%{{`; choose another folder with --out");
    }
    let requests = requests(options, plan.threads, plan.gpu)?;
    let suite = tessera_models::files::read_to_string(&folder.suite())?;
    let environment = environment(&[&plan.arguments[..], &[suite]].concat());
    let mut text = format!("name = {}\n", toml(&name(plan)));
    for (index, before) in waits(plan) {
        let words = [
            &plan.program,
            "node",
            &plan.out,
            &index.to_string(),
            "--exit-zero",
        ];
        let words: Vec<String> = words.iter().map(|word| toml(word)).collect();
        let before: Vec<String> = before.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "\n[[task]]\nid = {index}\ncommand = [{}]\ndeps = [{}]\ncwd = {}\nstdout = {}\nstderr = {}\nenv = {{{}}}",
            words.join(", "),
            before.join(", "),
            toml(&path),
            toml(&format!("{path}/{LOGS}/{index}.out")),
            toml(&format!("{path}/{LOGS}/{index}.log")),
            table(&environment),
        );
        if !requests.is_empty() {
            let _ = writeln!(
                text,
                "[[task.request]]\nresources = {{{}}}",
                table(&requests)
            );
        }
    }
    folder.write(HQ, &text)?;
    Ok(vec![format!(
        "hq job submit-file {}",
        quoted(&folder.path().join(HQ).to_string_lossy())
    )])
}

/// Returns the name of the job.
fn name(plan: &Plan) -> String {
    format!("tessera {}", plan.suite)
}

/// Returns the nodes to compute, by index, and those of them that each waits for.
fn waits(plan: &Plan) -> Vec<(usize, Vec<usize>)> {
    let pending = || {
        plan.nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.stored)
    };
    let places: HashMap<&str, usize> = pending().map(|(at, node)| (node.id.as_str(), at)).collect();
    let before = |id: &String| places.get(id.as_str()).copied();
    pending()
        .map(|(at, node)| (at, node.after.iter().filter_map(before).collect()))
        .collect()
}

/// Returns the variables of the submission that tasks get. `texts` are the suite and the arguments, in which `${NAME}` uses a variable.
fn environment(texts: &[String]) -> BTreeMap<String, String> {
    let used = texts.iter().flat_map(|text| text.split("${").skip(1));
    let used: HashSet<&str> = used
        .filter_map(|rest| rest.split(['}', ':']).next())
        .collect();
    // Job files are text, so other variables cannot be passed.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            let name = name.as_str();
            name.starts_with("TESSERA_") || VARIABLES.contains(&name) || used.contains(name)
        })
        .collect()
}

fn table(values: &BTreeMap<String, String>) -> String {
    let entries = values.iter();
    let entries = entries.map(|(name, value)| format!("{} = {}", toml(name), toml(value)));
    entries.collect::<Vec<_>>().join(", ")
}

/// Returns a string of TOML. JSON's is one but for DEL.
fn toml(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Submits the job file.
pub(super) fn submit(folder: &Folder, plan: &Plan) -> anyhow::Result<Jobs> {
    let mut hq = Command::new("hq");
    hq.args(["--output-mode", "json", "job", "submit-file"]);
    let said = output(hq.arg(folder.path().join(HQ)))?;
    let id = serde_json::from_str::<Value>(&said).ok();
    let id = id.and_then(|said| said["id"].as_u64());
    let id = id.with_context(|| format!("hq: expected the id of a job, found {said:?}"))?;
    let nodes = waits(plan).into_iter();
    let jobs = Jobs {
        scheduler: Scheduler::Hq,
        ids: vec![id.to_string()],
        name: Some(name(plan)),
        nodes: nodes.map(|(at, _)| (at, format!("{id}@{at}"))).collect(),
    };
    if let Err(error) = folder.write_jobs(&jobs) {
        output(Command::new("hq").args(["job", "cancel", &jobs.ids[0]]))?;
        return Err(error);
    }
    Ok(jobs)
}

/// Returns the tasks of the job if it waits or runs. HyperQueue lists only such jobs.
pub(super) fn live(jobs: &Jobs) -> anyhow::Result<Live> {
    let said = output(Command::new("hq").args(["--output-mode", "json", "job", "list"]))?;
    let list: Vec<Value> = serde_json::from_str(&said)
        .with_context(|| format!("hq: expected a list, found {said:?}"))?;
    let is_live = list.iter().any(|job| {
        let id = job["id"].as_u64().map(|id| id.to_string());
        // A new server counts from 1 again.
        let is_ours = match (&jobs.name, job["name"].as_str()) {
            (Some(ours), Some(name)) => ours == name,
            _ => true,
        };
        is_ours && id.is_some_and(|id| jobs.ids.contains(&id))
    });
    let tasks = jobs.nodes.iter().filter(|_| is_live);
    Ok(tasks.map(|(_, task)| (task.clone(), true)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_have_the_form_of_hyperqueue() {
        let given = ["cpus=4".to_owned(), "gpus/nvidia=2".to_owned()];
        let all = requests(&given, Some(8), true).unwrap();
        assert_eq!(all["cpus"], "4");
        assert_eq!(all["gpus/nvidia"], "2");
        assert_eq!(requests(&[], Some(8), true).unwrap()["gpus/nvidia"], "1");
        for wrong in ["--cpus=4", "cpus", "cpus=", "a b=1"] {
            assert!(
                requests(&[wrong.to_owned()], None, false).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn strings_have_the_form_of_toml() {
        assert_eq!(toml("a \"b\"\n\u{7f}\u{1}"), r#""a \"b\"\n\u007f\u0001""#);
    }
}
