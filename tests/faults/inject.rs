//! A system call of a run fails; the next run, without faults, ends well and with the right results.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::common::{Bench, error, skipped};
use super::{Numbers, Trial, must_not_panic, of_two_rows, whole};

/// Every kind of call of `shim.c` that does more than look.
const ALL: &str = "open,write,fsync,rename,mkdir,unlink,read";

/// The library, or nothing where there is no C compiler.
pub fn shim(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library);
    match compiler.arg(source).arg("-ldl").output() {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("{}", error(&output)),
        Err(e) => {
            skipped(&format!("no faults injected: cc: {e}"));
            None
        }
    }
}

pub struct Faults {
    trial: Trial,
    shim: PathBuf,
    /// Text in the path of each file whose calls count; empty for all files.
    below: String,
}

impl Faults {
    fn new() -> Option<Self> {
        Self::of(Trial::new())
    }

    pub fn of(trial: Trial) -> Option<Self> {
        let shim = shim(trial.bench.dir.path())?;
        Some(Self {
            trial,
            shim,
            below: String::new(),
        })
    }

    /// Only calls on files whose path contains `text` count.
    pub fn below(self, text: &str) -> Self {
        let below = text.to_owned();
        Self { below, ..self }
    }

    fn faulty(&self, fault: &str) -> Output {
        let mut command = self.trial.command("out", "store");
        self.inject(&mut command, fault).output().unwrap()
    }

    fn inject<'a>(&self, command: &'a mut Command, fault: &str) -> &'a mut Command {
        if !self.below.is_empty() {
            command.env("FAULT_BELOW", &self.below);
        }
        command.env("LD_PRELOAD", &self.shim).env("FAULT", fault);
        command.env("FAULT_COUNT", self.trial.bench.path("count"))
    }

    fn forget(&self) {
        for folder in ["out", "store"] {
            let _ = std::fs::remove_dir_all(self.trial.bench.path(folder));
        }
    }

    /// How many such calls a run makes.
    fn count(&self, calls: &str) -> u64 {
        self.counted(calls, &|| self.forget())
    }

    fn counted(&self, calls: &str, forget: &dyn Fn()) -> u64 {
        forget();
        let output = self.faulty(&format!("eio:{calls}:999999999"));
        assert!(output.status.success(), "{}", error(&output));
        let count = std::fs::read_to_string(self.trial.bench.path("count")).unwrap();
        let count = count.trim().parse().unwrap();
        assert!(
            count > 20 || !self.below.is_empty(),
            "{calls}: only {count} calls"
        );
        count
    }

    /// A run in which `fault` happens, and one after it.
    fn attempt(&self, fault: &str) -> Output {
        self.attempt_after(fault, &|| self.forget())
    }

    fn attempt_after(&self, fault: &str, forget: &dyn Fn()) -> Output {
        forget();
        let output = self.faulty(fault);
        must_not_panic(&output, fault);
        if output.status.success() {
            self.trial.must_have_all_numbers("out", fault);
        }
        self.trial.must_end_well(("out", "store"), fault);
        output
    }

    /// `how` at calls spread over the run, `quick` of them; all of them in the whole form.
    pub fn each(&self, how: &str, calls: &str, quick: u64) -> Vec<Output> {
        let times = if whole() { u64::MAX } else { quick };
        self.spread((how, calls), times, &|| self.forget())
    }

    /// As [`each`](Self::each), of a run whose stages are all in the store. It looks at a thousand files: 100 of them in the whole form.
    fn some_of_finished(&self, how: &str, calls: &str, quick: u64) {
        let times = if whole() { 100 } else { quick };
        self.trial.must_end_well(("out", "store"), "nothing");
        self.spread((how, calls), times, &|| {
            let _ = std::fs::remove_dir_all(self.trial.bench.path("out"));
        });
    }

    fn spread(&self, (how, calls): (&str, &str), times: u64, forget: &dyn Fn()) -> Vec<Output> {
        let count = self.counted(calls, forget);
        let step = (count / times).max(1);
        let at = (1..=count).step_by(step as usize);
        at.map(|nth| self.attempt_after(&format!("{how}:{calls}:{nth}"), forget))
            .collect()
    }
}

#[test]
fn killed_before_any_call_a_run_goes_on() {
    let Some(faults) = Faults::new() else { return };
    let count = faults.count(ALL);
    let mut numbers = Numbers(1);
    let trials = if whole() { 1000 } else { 16 };
    for _ in 0..trials {
        let output = faults.attempt(&format!("kill:{ALL}:{}", 1 + numbers.below(count)));
        assert_eq!(output.status.code(), None, "killed: {}", error(&output));
    }
    for calls in ["rename", "fsync"] {
        for output in faults.each("kill", calls, 4) {
            assert_eq!(output.status.code(), None, "killed: {}", error(&output));
        }
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_ends() {
    let Some(faults) = Faults::new() else { return };
    let mut numbers = Numbers(2);
    let mut kills = 0;
    while kills < 200 {
        let nth = 150 + numbers.below(150);
        let output = faults.faulty(&format!("kill:open,write,rename,fsync:{nth}"));
        if output.status.code().is_some() {
            break;
        }
        kills += 1;
    }
    assert!((1..200).contains(&kills), "{kills} kills");
    faults.trial.must_end_well(("out", "store"), "many kills");
}

#[test]
fn a_full_disk_ends_a_run_and_spoils_nothing() {
    let Some(faults) = Faults::new() else { return };
    faults.each("enospc", "open,write,mkdir,fsync", 12);
    // From one call on: the disk stays full.
    let failed = faults.each("enospc+", "open,write,mkdir,fsync", 12);
    assert!(failed.iter().all(|output| !output.status.success()));
}

#[test]
fn a_disk_that_fails_ends_a_run_and_spoils_nothing() {
    let Some(faults) = Faults::new() else { return };
    for calls in ["write", "fsync", "rename", "read"] {
        faults.each("eio", calls, 6);
    }
}

/// A run that finds all stages finished writes the run folder: comparisons, metrics and tables were left out if a file could not be looked at.
#[test]
fn what_cannot_be_read_is_not_left_out() {
    let trial = Trial::of(Bench::new(&of_two_rows()));
    let lines = trial.expected.iter();
    let names: Vec<&str> = lines.map(|lines| lines[0].as_str()).collect();
    for name in ["comparisons.csv", "metrics.csv", "tables/table1.csv"] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    let Some(faults) = Faults::of(trial) else {
        return;
    };
    for calls in ["look", "read", "open"] {
        faults.some_of_finished("eio", calls, 5);
    }
}

/// Entries that could not be listed were not verified, and nothing was said.
#[test]
fn verify_reads_everything_or_says_so() {
    let Some(faults) = Faults::new() else { return };
    let args = ["store", "--store", "store-whole", "verify"];
    let verify = |fault: &str| {
        let mut command = faults.trial.bench.command(&args);
        faults.inject(&mut command, fault).output().unwrap()
    };
    let whole = verify("eio:look:999999999");
    for calls in ["look", "list", "read"] {
        verify(&format!("eio:{calls}:999999999"));
        let count = std::fs::read_to_string(faults.trial.bench.path("count")).unwrap();
        for nth in 1..=count.trim().parse::<u64>().unwrap() {
            let fault = format!("eio:{calls}:{nth}");
            let found = verify(&fault);
            must_not_panic(&found, &fault);
            let is_same = found.stdout == whole.stdout;
            assert!(is_same || !found.status.success(), "{fault}: {found:?}");
            let damaged = faults.trial.bench.path("store-whole/.damaged");
            assert!(!damaged.exists(), "{fault}: nothing is damaged");
        }
    }
}

/// A cache of names leads to files that another machine has replaced.
#[test]
fn stale_names_spoil_nothing() {
    let Some(faults) = Faults::new() else { return };
    faults.each("estale", "open,rename,look", 24);
}

#[test]
fn interrupted_and_short_calls_are_made_again() {
    let Some(faults) = Faults::new() else { return };
    for (how, calls) in [("eintr", "write,read,fsync"), ("short", "write,read")] {
        for output in faults.each(how, calls, 8) {
            assert!(output.status.success(), "{how}: {}", error(&output));
        }
    }
    let output = faults.attempt("short+:write,read:1");
    assert!(output.status.success(), "short+: {}", error(&output));
    // The files of the run folder, which are read for `SHA256SUMS`: a few calls among thousands.
    let faults = faults.below("/out/");
    for output in faults.each("eintr", "write,read,fsync", 8) {
        assert!(output.status.success(), "of the folder: {}", error(&output));
    }
}
