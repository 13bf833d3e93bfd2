//! Tries a graph in a process of its own before this process opens it, with limits of memory and time: a small graph may ask for all
//! memory, which no engine survives, or never end. Then only that process ends, and the graph is refused.
//!
//! The process is the program itself, started with [`WORD`]. A program that has not said how to start it ([`guard_with`]) tries graphs in
//! its own process. The graph's bytes and the reply go through pipes, so no file is left behind, and what is tried is what is opened. The
//! process ends when its standard input does, that is, at the latest when this one ends.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};
use serde::{Deserialize, Serialize};

use super::check::Checked;
use super::engines::chosen;
use super::limits::{Limits, SECONDS};
use super::model::{Calls, Files, Model, Probed};
use crate::contract::Fingerprint;
use crate::{Error, Result};

/// The argument that starts a program as the process that tries a graph.
pub const WORD: &str = "guard-graph";

/// Time between two looks at the process, or at an interruption.
const TICK: Duration = Duration::from_millis(5);
/// Bytes of standard output and standard error that are kept.
const KEPT: u64 = 1 << 16;
/// Lines of standard error that an error shows.
const LINES: usize = 3;
/// Seconds between the signal that ends the process and the one that it could not ignore.
const GRACE: u64 = 10;

/// Program and arguments that start the process, without [`WORD`].
static COMMAND: OnceLock<Vec<OsString>> = OnceLock::new();

/// Answers by fingerprint: a graph is tried once per process, however many rows use it.
static ANSWERS: Mutex<Option<HashMap<String, Answer>>> = Mutex::new(None);

/// Lets `command`, followed by [`WORD`], try graphs. It must write what [`guarded`] returns. Only the first call counts.
pub fn guard_with(command: Vec<OsString>) {
    let _ = COMMAND.set(command);
}

/// A graph and how it is called.
pub struct Trial<'a> {
    /// The file, for errors.
    pub file: &'a Path,
    /// Content.
    pub files: &'a Files,
    /// What is known of it.
    pub checked: &'a Checked,
    /// Size of its calls.
    pub calls: Calls,
    /// Side of its images in pixels.
    pub side: usize,
    /// Depends on all of these and on the engine.
    pub fingerprint: &'a Fingerprint,
}

/// First line that the process reads. The graph and its external files follow.
#[derive(Serialize, Deserialize)]
struct Job {
    file: String,
    output: String,
    batch: usize,
    threads: usize,
    side: usize,
    limits: Limits,
    graph: usize,
    external: Vec<(String, usize)>,
}

/// Last line that the process writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Fine(Probed),
    /// Message of [`Error::File`].
    File(String),
    /// Engine and message of [`Error::Engine`].
    Engine(String, String),
}

/// Opens and probes a graph in a process of its own. Returns `None` if this program has not said how to start it.
///
/// # Errors
/// [`Error::File`] or [`Error::Engine`] as the engine reports it, or if the process dies; [`Error::Interrupted`].
pub fn tried(trial: &Trial<'_>, interrupted: &dyn Fn() -> bool) -> Result<Option<Probed>> {
    let command = COMMAND.get();
    command
        .map(|command| trial.tried(command, interrupted))
        .transpose()
}

impl Trial<'_> {
    /// Returns the answer of the first trial with this fingerprint.
    fn tried(&self, command: &[OsString], interrupted: &dyn Fn() -> bool) -> Result<Probed> {
        let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = answers.get_or_insert_with(HashMap::new);
        let key = &self.fingerprint.0;
        if !answers.contains_key(key) {
            answers.insert(key.clone(), self.answer(command, interrupted)?);
        }
        match answers[key].clone() {
            Answer::Fine(probed) => Ok(probed),
            Answer::File(message) => Err(self.refused(message)),
            Answer::Engine(engine, message) => Err(Error::Engine { engine, message }),
        }
    }

    fn refused(&self, message: String) -> Error {
        Error::File {
            path: self.file.to_owned(),
            message,
        }
    }

    fn answer(&self, command: &[OsString], interrupted: &dyn Fn() -> bool) -> Result<Answer> {
        let images = self.calls.batch * 3 * self.side * self.side * size_of::<f32>();
        let bytes: usize = self.files.parts().map(<[u8]>::len).sum();
        let limits = Limits::of(bytes as u64, images as u64, self.calls.threads as u64)?;
        let external = self.files.external.iter();
        let job = Job {
            file: self.file.display().to_string(),
            output: self.checked.output.clone(),
            batch: self.calls.batch,
            threads: self.calls.threads,
            side: self.side,
            graph: self.files.graph.len(),
            external: external.map(|(n, b)| (n.clone(), b.len())).collect(),
            limits,
        };
        let job = serde_json::to_vec(&job).map_err(|e| self.refused(e.to_string()))?;
        let contents = self.files.external.iter().map(|(_, bytes)| &bytes[..]);
        let parts = [&job[..], b"\n", &self.files.graph].into_iter();
        let ended = run(command, parts.chain(contents), interrupted);
        let ended = ended.map_err(|error| {
            self.refused(format!(
                "is tried in a process of its own, which cannot be started ({}): {error}; allow one more process, or start bench again if the \
                 program was replaced",
                command[0].display()
            ))
        })?;
        let Some((status, said, errors)) = ended else {
            return Err(Error::Interrupted);
        };
        let last = said.lines().next_back().unwrap_or_default();
        let answer = serde_json::from_str(last).ok().filter(|_| status.success());
        Ok(match answer {
            Some(Answer::File(message)) => Answer::File(limits.explained(message)),
            Some(Answer::Engine(engine, message)) => {
                Answer::Engine(engine, limits.explained(message))
            }
            Some(fine) => fine,
            None => Answer::File(death(status, &errors, limits)),
        })
    }
}

/// Says why a graph whose process died is refused.
fn death(status: ExitStatus, errors: &str, limits: Limits) -> String {
    let seconds = limits.seconds;
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return format!(
            "did not open and answer for a few images within {seconds} s of processor time, the limit for its images and threads; has it a loop \
             without end? If you trust it, set {SECONDS} to more"
        );
    }
    let lines = errors.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("note:")).collect();
    let said = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    let message = match said.is_empty() {
        true => format!("ended the process that tried it ({status})"),
        false => format!("ended the process that tried it ({status}): {said}"),
    };
    // The system ends a process that takes too much memory by SIGKILL; one that does not get it may abort or read what is not there.
    let of_memory = [Signal::KILL, Signal::ABORT, Signal::SEGV, Signal::BUS].map(Signal::as_raw);
    match status
        .signal()
        .is_some_and(|signal| of_memory.contains(&signal))
    {
        true => limits.added(&message),
        false => limits.explained(message),
    }
}

/// Status of a process, its standard output, and its standard error.
type Ended = (ExitStatus, String, String);

/// Starts the process, writes `parts` to it, and waits. Returns `None` if the user interrupted.
fn run<'a>(
    command: &[OsString],
    parts: impl Iterator<Item = &'a [u8]> + Send,
    interrupted: &dyn Fn() -> bool,
) -> io::Result<Option<Ended>> {
    // A group of its own: a signal of the terminal reaches this process, which ends that one.
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .arg(WORD)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let (input, output, error) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut input = input?;
            // A process that has died does not read; its status says so.
            let _ = { parts }.try_for_each(|part| input.write_all(part));
            Some(input)
        });
        let [said, errors] = [
            scope.spawn(|| output.map(kept)),
            scope.spawn(|| error.map(kept)),
        ];
        let status = loop {
            match child.try_wait() {
                Ok(None) if !interrupted() => thread::sleep(TICK),
                Ok(Some(status)) => break Ok(Some(status)),
                other => {
                    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                    break child.wait().and(other.map(|_| None));
                }
            }
        };
        // Until here, its standard input was open.
        drop(written.join());
        let [said, errors] = [said, errors].map(|text| text.join().ok().flatten());
        Ok(status?.map(|status| (status, said.unwrap_or_default(), errors.unwrap_or_default())))
    })
}

/// Reads to the end and returns the beginning.
fn kept(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(KEPT).read_to_end(&mut bytes);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The process that tries a graph: reads it from standard input and returns the line to write.
pub fn guarded() -> String {
    let answer = job().map_err(|error| Error::Fit(error.to_string()));
    let answer = answer.and_then(|(job, files)| job.probed(files));
    let answer = match answer {
        Ok(probed) => Answer::Fine(probed),
        Err(Error::Engine { engine, message }) => Answer::Engine(engine, message),
        Err(Error::File { message, .. }) => Answer::File(message),
        Err(other) => Answer::File(other.to_string()),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

fn job() -> io::Result<(Job, Files)> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    restrict(job.limits);
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        input.read_exact(&mut bytes).map(|()| bytes)
    };
    let graph = read(job.graph)?;
    let external = job.external.iter();
    let external = external.map(|(name, length)| Ok((name.clone(), read(*length)?)));
    let external = external.collect::<io::Result<_>>()?;
    thread::spawn(|| {
        // The end of the other process ends this one.
        let _ = io::stdin().read(&mut [0]);
        std::process::abort()
    });
    Ok((job, Files { graph, external }))
}

/// Limits this process. A limit that the system does not have is left out. If memory is short in spite of them, this process is to end.
fn restrict(limits: Limits) {
    let set = |resource, soft: u64, hard: Option<u64>| {
        let most = getrlimit(resource).maximum;
        let least = |wanted: u64| Some(most.map_or(wanted, |most| most.min(wanted)));
        let limit = Rlimit {
            current: least(soft),
            maximum: hard.map_or(most, least),
        };
        let _ = setrlimit(resource, limit);
    };
    set(Resource::Core, 0, None);
    set(Resource::Data, limits.memory, None);
    let hard = limits.seconds.saturating_add(GRACE);
    set(Resource::Cpu, limits.seconds, Some(hard));
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

impl Job {
    fn probed(self, files: Files) -> Result<Probed> {
        let file = Path::new(&self.file);
        let checked = Checked::of(&files.graph, Some(&self.output));
        let checked = checked.map_err(Error::Fit)?;
        let calls = Calls {
            batch: self.batch,
            threads: self.threads,
        };
        let engine = chosen(false)?.engine();
        Model::open(file, files, &checked, engine, calls)?.probe(self.side)
    }
}

#[cfg(test)]
mod tests;
