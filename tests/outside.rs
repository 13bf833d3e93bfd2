//! A tokenizer from a crate outside the workspace goes through the whole program.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bench, HEAD, RECIPE, column, error};

/// Builds `tests/crates/outside` with the dependencies that are built already.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let profile = Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap();
    let target = profile.parent().unwrap();
    let package = target.join("outside-package");
    std::fs::create_dir_all(&package).unwrap();
    for file in ["main.rs", "Cargo.toml"] {
        let text = std::fs::read_to_string(root.join("tests/crates/outside").join(file)).unwrap();
        let text = text.replace("\"../../..\"", &format!("{:?}", root.display().to_string()));
        std::fs::write(package.join(file), text).unwrap();
    }
    // The same versions as here, so that nothing is downloaded and little is compiled.
    std::fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--offline", "--manifest-path"])
        .arg(package.join("Cargo.toml"));
    command.arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", error(&output));
    profile.join("outside")
}

#[test]
fn a_tokenizer_of_ones_own_is_listed_checked_trained_and_tabled() {
    let program = build();
    let rows = "tokenizers: [{name: Brightness, kind: brightness, with: {steps: 6}}]\n";
    let bench = Bench::new(&format!("{HEAD}{rows}{RECIPE}"));
    let call = |args: &[&str]| {
        Command::new(&program)
            .args(args)
            .current_dir(bench.dir.path())
            .output()
            .unwrap()
    };
    let said = call(&["list", "tokenizers"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("brightness"));
    let said = call(&["schema"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("Number of steps."));
    let said = call(&[
        "validate",
        "suite.yaml",
        "--set",
        "tokenizers[0].with.steps=0",
    ]);
    assert_eq!(said.status.code(), Some(2));
    assert!(
        error(&said).contains("tokenizers[0].with.steps"),
        "{}",
        error(&said)
    );
    let said = call(&["run", "suite.yaml", "--set", "seeds=[0]"]);
    assert!(said.status.success(), "{}", error(&said));
    let run = bench.path("runs/tiny");
    assert_eq!(column(&run, "codebook_size"), ["6"]);
    assert!(!column(&run, "tcas")[0].is_empty() && !column(&run, "lp_top1")[0].is_empty());
    assert!(
        std::fs::read_to_string(run.join("tables/table1.md"))
            .unwrap()
            .contains("Brightness")
    );
}
