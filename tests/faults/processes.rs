//! Several processes on one store, and beside `bench store gc`; readers of the output that are gone.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::common::{error, skipped};
use super::inject::shim;
use super::{Trial, must_not_panic, whole};

fn start(trial: &Trial, out: &str) -> Child {
    let mut command = trial.command(out, "store");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Returns what the processes wrote on standard error.
fn must_all_end_well(trial: &Trial, children: Vec<(String, Child)>) -> String {
    let mut said = String::new();
    for (out, child) in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{out}: {}", error(&output));
        trial.must_be_right(&out, "beside others");
        said += &error(&output);
    }
    said
}

#[test]
fn processes_share_a_store() {
    let trial = Trial::new();
    for round in 0..if whole() { 40 } else { 3 } {
        let outs = ["one", "two", "three", "four"].map(|name| format!("{name}{round}"));
        let children = outs.map(|out| (out.clone(), start(&trial, &out)));
        must_all_end_well(&trial, children.into());
        trial.must_end_well(("one0", "store"), "others");
        std::fs::remove_dir_all(trial.bench.path("store")).unwrap();
    }
}

/// Two machines on a file system without locks compute the same stages at the same time.
#[test]
fn locks_that_do_not_see_each_other_only_cost_time() {
    let trial = Trial::new();
    let Some(shim) = shim(trial.bench.dir.path()) else {
        return;
    };
    for round in 0..if whole() { 100 } else { 5 } {
        let outs = ["one", "two", "three"].map(|name| format!("{name}{round}"));
        let children = outs.map(|out| {
            let mut command = trial.command(&out, "store");
            command.env("LD_PRELOAD", &shim).env("FAULT_BLIND", "1");
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            (out, command.spawn().unwrap())
        });
        let said = must_all_end_well(&trial, children.into());
        trial.must_end_well(("one0", "store"), "blind locks");
        let damaged = std::fs::read_dir(trial.bench.path("store/.damaged"));
        let damaged: Vec<_> = damaged.into_iter().flatten().flatten().collect();
        assert!(damaged.is_empty(), "{damaged:?}: {said}");
        std::fs::remove_dir_all(trial.bench.path("store")).unwrap();
    }
}

#[test]
fn one_of_several_processes_is_killed() {
    let trial = Trial::new();
    for round in 0..if whole() { 40 } else { 4 } {
        let mut killed = start(&trial, "killed");
        let others = ["two", "three"].map(|out| (out.to_owned(), start(&trial, out)));
        std::thread::sleep(Duration::from_millis(20 + 17 * (round % 9)));
        killed.kill().unwrap();
        killed.wait().unwrap();
        must_all_end_well(&trial, others.into());
        trial.must_end_well(("killed", "store"), "a kill beside others");
        std::fs::remove_dir_all(trial.bench.path("store")).unwrap();
    }
}

#[test]
fn gc_removes_nothing_that_a_live_run_uses() {
    let trial = Trial::new();
    for _ in 0..if whole() { 40 } else { 3 } {
        let mut child = start(&trial, "out");
        while child.try_wait().unwrap().is_none() {
            let gc = ["store", "--store", "store", "gc", "--keep-days", "0"];
            let output = trial.bench.bench(&gc);
            assert!(output.status.success(), "gc: {}", error(&output));
        }
        let output = child.wait_with_output().unwrap();
        let messages = error(&output);
        assert!(output.status.success(), "{messages}");
        assert!(!messages.contains("is damaged"), "{messages}");
        trial.must_be_right("out", "beside gc");
    }
}

#[test]
fn an_output_that_cannot_be_written_ends_no_run_and_never_panics() {
    let trial = Trial::new();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let gone = || {
        let mut reader = Command::new("true");
        let mut reader = reader.stdin(Stdio::piped()).spawn().unwrap();
        let pipe = reader.stdin.take().unwrap();
        reader.wait().unwrap();
        Stdio::from(pipe)
    };
    for (name, stderr) in [("full", full()), ("gone", gone())] {
        let status = trial
            .command(name, "store")
            .stderr(stderr)
            .stdout(gone())
            .status();
        assert_eq!(status.unwrap().code(), Some(0), "{name}");
        trial.must_be_right(name, "an output that is gone");
    }
    for args in [
        &["schema"][..],
        &["list", "metrics"],
        &["--help"],
        &["doctor"],
        &["store", "--store", "store", "ls"],
    ] {
        let status = trial.bench.command(args).stdout(gone()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?} into a closed pipe");
        let output = trial.bench.command(args).stdout(full()).output().unwrap();
        must_not_panic(&output, "a full disk");
        assert_eq!(output.status.code(), Some(2), "{args:?} on a full disk");
    }
}

/// Returns whether this process ignores SIGHUP (proc(5): bit n - 1 of `SigIgn` is signal n).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[test]
fn a_terminal_that_closes_keeps_the_state() {
    if ignores_hangup() {
        skipped("SIGHUP is ignored here, as under nohup, and so it is in the program");
        return;
    }
    let trial = Trial::new();
    let mut command = trial
        .bench
        .command(&["run", "suite.yaml", "--set", "pretrain.epochs=4000"]);
    let child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let state = trial.bench.path("runs/.store/.state/pretrain");
    while !state.is_dir() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(500));
    let pid = child.id().to_string();
    // A shell and the system send one each.
    for _ in 0..2 {
        Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", error(&output));
    let states = super::files(&state);
    assert!(
        states
            .iter()
            .any(|path| path.ends_with("state.safetensors"))
    );
}

/// Both ended the program by their signal, without a word and without the state.
#[test]
fn limits_of_file_size_and_cpu_time_end_a_run_with_a_message_and_keep_its_state() {
    let trial = Trial::new();
    let limited = |limit: &str, args: &[&str]| {
        let command = trial.bench.command(args);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
        shell.arg(command.get_program()).args(command.get_args());
        let envs = command.get_envs();
        shell.envs(envs.filter_map(|(name, value)| Some((name, value?))));
        shell.current_dir(command.get_current_dir().unwrap());
        shell.stdout(Stdio::null()).output().unwrap()
    };
    let output = limited("-f 20", &["run", "suite.yaml", "--out", "small"]);
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{}",
        error(&output)
    );
    assert!(
        error(&output).contains("File too large"),
        "{}",
        error(&output)
    );
    // So that the limit comes in pretraining.
    trial
        .bench
        .fine(&["score", "suite.yaml", "--set", "fit_seeds=[0]"]);
    let args = ["run", "suite.yaml", "--set", "pretrain.epochs=4000"];
    let output = limited("-S -t 3", &args);
    assert_eq!(output.status.code(), Some(130), "{}", error(&output));
    let states = super::files(&trial.bench.path("runs/.store/.state/pretrain"));
    let is_state = |path: &std::path::PathBuf| path.ends_with("state.safetensors");
    assert!(states.iter().any(is_state), "{states:?}");
}
