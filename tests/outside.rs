//! Runs a tokenizer and a dataset from a crate outside the workspace through the whole program.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bench, HEAD, RECIPE, column, error};

/// Copies `tests/crates/outside` to a folder in the target directory, to reuse the dependencies built there.
fn package() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = target().join("outside-package");
    std::fs::create_dir_all(&package).unwrap();
    let absent = root.join("models/absent/tokenizers").display().to_string();
    let patch = format!("[patch.crates-io]\ntokenizers.path = {absent:?}\n");
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, profile) = workspace.split_once("[profile.release]\n").unwrap();
    for file in [
        "main.rs",
        "gradients.rs",
        "lloyd.rs",
        "product_quantization.rs",
        "Cargo.toml",
    ] {
        let text = std::fs::read_to_string(root.join("tests/crates/outside").join(file)).unwrap();
        let text = text.replace("\"../../..\"", &format!("{:?}", root.display().to_string()));
        let added = format!("[workspace]\n{patch}[profile.release]\n{profile}");
        let text = text.replace("[workspace]", &added);
        std::fs::write(package.join(file), text).unwrap();
    }
    // With the same versions, patch and profile as the workspace, nothing is downloaded and little is compiled.
    std::fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    package
}

fn profile() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap()
}

fn target() -> &'static Path {
    profile().parent().unwrap()
}

/// Tests and builds the crate; returns the program's path.
fn build() -> PathBuf {
    let package = package();
    for verb in ["test", "build"] {
        let mut command = Command::new(env!("CARGO"));
        command
            .args([verb, "--offline", "--manifest-path"])
            .arg(package.join("Cargo.toml"));
        command.arg("--target-dir").arg(target());
        // Cargo sets these for tests. ring's build script would run again because of them, and again in the next build without them.
        let of_test = std::env::vars_os().map(|(name, _)| name);
        let of_test = of_test.filter(|name| {
            let name = name.to_string_lossy();
            name == "OUT_DIR"
                || name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
        });
        of_test.for_each(|name| _ = command.env_remove(name));
        if profile().ends_with("release") {
            command.arg("--release");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{verb}: {}", error(&output));
    }
    profile().join("outside")
}

#[test]
fn an_external_tokenizer_and_dataset_are_listed_validated_fitted_trained_and_reported() {
    let program = build();
    let rows = "tokenizers: [{name: PQ, kind: product-quantization, with: {features: {kind: pixels}, groups: 2, k: 3}}]\n";
    let bench = Bench::new(&format!("{HEAD}{rows}{RECIPE}"));
    let call = |args: &[&str]| {
        Command::new(&program)
            .args(args)
            .current_dir(bench.dir.path())
            .output()
            .unwrap()
    };
    let said = call(&["list", "tokenizers"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("product-quantization"));
    let said = call(&["schema"]);
    assert!(
        String::from_utf8_lossy(&said.stdout)
            .contains("Number of groups into which the features are split.")
    );
    let said = call(&[
        "validate",
        "suite.yaml",
        "--set",
        "tokenizers[0].with.groups=5",
    ]);
    assert_eq!(said.status.code(), Some(2));
    assert!(
        error(&said)
            .contains("tokenizers[0].with.groups: found 5, expected a divisor of the features' 48"),
        "{}",
        error(&said)
    );
    let said = call(&["run", "suite.yaml", "--set", "seeds=[0]"]);
    assert!(said.status.success(), "{}", error(&said));
    let run = bench.path("runs/tiny");
    let used: usize = column(&run, "codebook_used")[0].parse().unwrap();
    assert!(
        (4..=9).contains(&used),
        "more than a group alone has: {used}"
    );
    assert_eq!(column(&run, "codebook_size"), ["9"]);
    assert!(!column(&run, "tcas")[0].is_empty() && !column(&run, "lp_top1")[0].is_empty());
    assert!(
        std::fs::read_to_string(run.join("tables/table1.md"))
            .unwrap()
            .contains("PQ")
    );
    let said = call(&["list", "datasets"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("gradients"));
    let drawn = |fields: &str| {
        let dataset = format!("dataset={{kind: gradients, train: 40, val: 20, size: 16{fields}}}");
        call(&["score", "suite.yaml", "--out", "drawn", "--set", &dataset])
    };
    let said = drawn(", siez: 3");
    assert_eq!(said.status.code(), Some(2));
    assert!(
        error(&said).contains("dataset.siez: unknown field `siez`"),
        "{}",
        error(&said)
    );
    let said = drawn("");
    assert!(said.status.success(), "{}", error(&said));
    let run = bench.path("drawn");
    assert_eq!(column(&run, "dataset")[0], "gradients");
    assert_eq!(column(&run, "n_train")[0], "40");
    assert!(!column(&run, "tcas")[0].is_empty());
}
