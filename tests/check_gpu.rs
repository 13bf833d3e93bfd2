//! `models/kernels/check-gpu.sh` with stubs instead of the programs and the card: what it says if programs fail, hang, or do not start, and if
//! it is stopped. What the steps do on a card, only a card shows.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/kernels")
}

/// A folder with stubs. `bin/` is first on the path.
struct Stubs(TempDir);

impl Stubs {
    fn new() -> Self {
        let stubs = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(stubs.path().join("bin")).unwrap();
        std::fs::create_dir_all(stubs.path().join("out")).unwrap();
        stubs
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a program of the shell.
    fn with(self, name: &str, text: &str) -> Self {
        let path = self.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    fn with_card(self) -> Self {
        let text = r#"case "$*" in *memory*) echo "NVIDIA H200, 580.1, 143771 MiB";; *) echo "NVIDIA H200";; esac"#;
        self.with("bin/nvidia-smi", text)
    }

    fn command(&self, args: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .arg(kernels().join("check-gpu.sh"))
            .args(["run", self.path().to_str().unwrap()])
            .args(args)
            .env(
                "PATH",
                format!("{}:{path}", self.path().join("bin").display()),
            )
            .env("OUT", self.path().join("out"));
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        said(&self.command(args).output().unwrap())
    }

    fn out(&self, name: &str) -> PathBuf {
        self.path().join("out").join(name)
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

/// Returns the state in the last table's row of a step.
fn state(said: &str, step: &str) -> String {
    let begins = |line: &&str| line.split_whitespace().next() == Some(step);
    let row = said
        .lines()
        .rfind(begins)
        .unwrap_or_else(|| panic!("no {step} in {said}"));
    row.get(19..29).unwrap_or_default().trim().to_owned()
}

/// A program that a card can run. `speed` prints a value, and the predictions of a ledger.
const BENCH: &str = r#"case "$*" in
*doctor*) echo "CUDA  NVIDIA H200" ;;
*--ledger*--json*) echo '{"rows":[{"flops":2000000000000}],"predicted":{"H100 SXM":19000.5,"H200":21700.9}}' ;;
*1024*) echo '{"value":20000.5,"unit":"images/s"}' ;;
*vit-b-224*) echo '{"value":5000}' ;;
esac"#;

fn names() -> Vec<String> {
    let script = kernels().join("check-gpu.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg("list")
        .output()
        .unwrap();
    said(&output).1.lines().map(str::to_owned).collect()
}

#[test]
fn without_a_card_every_step_is_no_device() {
    let message = "the NVIDIA driver finds no GPU";
    let program = std::fs::read_to_string(kernels().join("device/cuda/gpu.rs")).unwrap();
    assert!(program.contains(&format!("{message} (")));
    let finds_none = &format!("echo 'CUDA  {message} (CUDA_ERROR_NO_DEVICE); reason'");
    for stubs in [
        Stubs::new(),
        Stubs::new().with("bench", finds_none),
        Stubs::new().with("bench", "exit 127"),
    ] {
        let stubs = stubs.with("bin/nvidia-smi", "echo No devices were found; exit 6");
        let (status, said) = stubs.run(&[]);
        assert_eq!(status, 0, "{said}");
        let names = names();
        assert!(names.len() > 10);
        for name in names {
            assert_eq!(state(&said, &name), "NO DEVICE", "{name}");
        }
        assert!(stubs.out("table.txt").is_file() && stubs.out("logs.tgz").is_file());
    }
}

#[test]
fn a_card_that_programs_cannot_use_is_a_failure() {
    let no_library = "echo 'libcurand.so.10: cannot open shared object file' >&2; exit 127";
    for (stubs, reason) in [
        (Stubs::new(), "no programs in DIR"),
        (
            Stubs::new().with("bench", no_library),
            "bench does not start: libcurand.so.10",
        ),
        (
            Stubs::new().with("bench", "echo 'CUDA  built without CUDA'"),
            "built without CUDA",
        ),
        (
            Stubs::new().with("bench", "echo 'CUDA  the NVIDIA driver finds no GPU (A)'"),
            "NVIDIA driver finds no GPU (A)",
        ),
    ] {
        let (status, said) = stubs.with_card().run(&[]);
        assert_eq!(
            (status, state(&said, "device").as_str()),
            (1, "FAIL"),
            "{said}"
        );
        assert!(said.contains(reason), "{reason}: {said}");
        assert_eq!(state(&said, "kernels"), "NOT RUN");
    }
}

#[test]
fn a_setting_that_the_driver_refuses_keeps_its_default_in_all_steps() {
    let refuses = |setting: &str| {
        format!(
            r#"case "$*" in
*doctor*) echo "CUDA  NVIDIA H200; settings: $TESSERA_GPU_DEFAULTS" ;;
*) case "$TESSERA_GPU_DEFAULTS" in *{setting}*) ;; *) echo "error: setting {setting}" >&2; exit 1 ;; esac ;;
esac"#
        )
    };
    for (setting, expected, status) in [
        ("pool", "pool", 0),
        ("events", "waits,pool,events", 0),
        ("x", "", 1),
    ] {
        let stubs = Stubs::new().with_card().with("bench", &refuses(setting));
        let (found, said) = stubs.run(&["doctor"]);
        assert_eq!(found, status, "{said}");
        let start = if status == 0 { "PASS" } else { "FAIL" };
        assert_eq!(state(&said, "start"), start, "{said}");
        assert!(said.contains(&format!("settings: {expected}\n")), "{said}");
    }
}

#[test]
fn a_step_that_does_not_exist_is_refused() {
    let (status, said) = Stubs::new().run(&["kernels", "kernel"]);
    assert_eq!(status, 2);
    assert!(
        said.contains("found step kernel, expected one of: doctor"),
        "{said}"
    );
}

#[test]
fn a_failing_step_hides_no_other_and_figures_are_compared() {
    let listed = r#"case "$*" in *--list*) echo "a: test" ;; *) echo "test error_of_a ... ok"; echo "thread panicked here"; exit 101 ;; esac"#;
    let stubs = Stubs::new()
        .with_card()
        .with("bench", BENCH)
        .with("tessera_kernels-tests", listed);
    let (status, said) = stubs.run(&["doctor", "kernels", "steps"]);
    assert_eq!(status, 1, "{said}");
    assert_eq!(state(&said, "doctor"), "PASS");
    assert_eq!(state(&said, "kernels"), "FAIL");
    assert!(said.contains("thread panicked here"));
    // No value of batch 256, so the step fails, but keeps its other figures beside this card's predictions.
    assert_eq!(state(&said, "steps"), "FAIL");
    assert!(
        said.contains("error: no value of vit-s-224 bf16, batch 256"),
        "{said}"
    );
    let row = |name: &str| {
        let found = said.lines().rfind(|line| line.starts_with(name));
        let found = found.unwrap_or_else(|| panic!("no {name} in {said}"));
        found
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        row("vit-s-224 bf16, batch 1024")[4..6],
        ["20000.5", "21700"]
    );
    assert_eq!(row("vit-s-224 bf16, batch 256 ")[4..6], ["none", "21700"]);
    assert_eq!(row("vit-b-224 products")[2], "0.003906");
    assert!(row("ViT-S, batch 1024: ours / PyTorch eager").ends_with(&["RUN".into()]));
    let kept = std::fs::read_to_string(stubs.out("table.txt")).unwrap();
    assert_eq!(state(&kept, "kernels"), "FAIL");
    let list = Command::new("tar")
        .arg("-tzf")
        .arg(stubs.out("logs.tgz"))
        .output()
        .unwrap();
    let (_, list) = self::said(&list);
    assert!(
        list.contains("logs/kernels.log") && list.contains("table.txt"),
        "{list}"
    );
}

#[test]
fn a_goal_that_is_missed_fails() {
    let torch = r#"case "$*" in *torch_pretrain*) echo '{"value": 19000}' ;; *) exit 1 ;; esac"#;
    let stubs = Stubs::new()
        .with_card()
        .with("bench", BENCH)
        .with("bin/python3", torch);
    std::fs::create_dir(stubs.path().join("peers")).unwrap();
    std::fs::write(stubs.path().join("peers/torch_pretrain.py"), "").unwrap();
    let (status, said) = stubs.run(&["steps", "torch_eager", "torch_compiled"]);
    assert_eq!(status, 1);
    let goal = |name: &str| {
        said.lines()
            .rfind(|line| line.contains(name))
            .unwrap()
            .to_owned()
    };
    assert!(
        goal("ours / PyTorch eager").contains("1.053")
            && goal("ours / PyTorch eager").ends_with("FAIL"),
        "{said}"
    );
    assert!(goal("ours / PyTorch compiled").ends_with("PASS"), "{said}");
}

#[test]
fn a_step_ends_at_the_budget_and_later_ones_do_not_start() {
    let stubs = Stubs::new()
        .with_card()
        .with("bench", BENCH)
        .with("tessera_kernels-tests", "sleep 60");
    let mut command = stubs.command(&["kernels", "kernel_times", "operations"]);
    // Without the budget, the step would pass after its 60 s, which its own limit allows.
    let (status, said) = said(&command.env("TESSERA_BUDGET", "22").output().unwrap());
    assert_eq!(
        (status, state(&said, "kernels").as_str()),
        (1, "TIMEOUT"),
        "{said}"
    );
    assert_eq!(state(&said, "operations"), "NOT RUN");
    assert!(said.contains("no time left"));
}

#[test]
fn a_script_that_is_stopped_prints_its_table_at_once() {
    let stubs = Stubs::new()
        .with_card()
        .with("bench", BENCH)
        .with("tessera_kernels-tests", "echo begun; sleep 600");
    let mut command = stubs.command(&["doctor", "kernels"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // The table of the first step is written when the second starts.
    while !stubs.path().join("logs/kernels.log").is_file() {
        assert!(child.try_wait().unwrap().is_none(), "the script ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    let kept = std::fs::read_to_string(stubs.out("table.txt")).unwrap();
    assert_eq!(state(&kept, "doctor"), "PASS");
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    // If the step went on, it would end as TIMEOUT.
    let (status, said) = said(&child.wait_with_output().unwrap());
    assert_eq!(
        (status, state(&said, "interrupted").as_str()),
        (1, "FAIL"),
        "{said}"
    );
    assert_eq!(state(&said, "doctor"), "PASS");
}

#[test]
fn the_package_and_the_copied_files_are_counted_together() {
    let stubs = Stubs::new();
    let folder = stubs.path().join("models/kernels");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["check-gpu.sh", "check-gpu-steps.sh"] {
        std::fs::copy(kernels().join(name), folder.join(name)).unwrap();
    }
    let git = Command::new("git")
        .args(["init", "-q"])
        .current_dir(stubs.path())
        .status();
    if !git.is_ok_and(|status| status.success()) {
        return common::skipped("no git: sizes of the checkout are not counted");
    }
    std::fs::write(stubs.path().join(".gitignore"), "/pack/\n").unwrap();
    let sparse = |name: &str, bytes: u64| {
        let path = stubs.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
    };
    sparse("pack/gpu.tar.xz", 20 << 20);
    sparse("results/counts.npy", 50 << 20);
    let size = || {
        let mut command = Command::new("bash");
        command
            .arg(folder.join("check-gpu.sh"))
            .arg("size")
            .arg(stubs.path().join("pack"));
        said(&command.output().unwrap())
    };
    let (status, text) = size();
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains("without results/") && text.contains("52428800"),
        "{text}"
    );
    std::fs::remove_dir_all(stubs.path().join("results")).unwrap();
    let (status, text) = size();
    assert_eq!(status, 0, "{text}");
}
