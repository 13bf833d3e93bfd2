//! Checks that imports run one way: `harness -> {tokenizers, models, kernels, reports}`, `tokenizers -> {models, kernels}`,
//! `models -> kernels`; inside the harness
//! `cli -> run -> plan -> stages -> {folder, suite, metrics, speed} -> data -> store` and `run -> folder -> {metrics, store}`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

/// Folders, and the words that no file in them may contain.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "models",
        &[
            "tessera_tokenizers",
            "tessera_reports",
            "tessera::",
            "clap",
            "serde_yaml",
        ],
    ),
    ("models/kernels", &["tessera_models"]),
    (
        "reports",
        &[
            "tessera_kernels",
            "tessera_tokenizers",
            "tessera_models",
            "tessera::",
            "candle_core",
            "clap",
        ],
    ),
    (
        "tokenizers",
        &["tessera_reports", "tessera::", "clap", "serde_yaml"],
    ),
    (
        "harness/data",
        &[
            "crate::suite",
            "crate::run",
            "crate::plan",
            "crate::stages",
            "crate::folder",
            "crate::metrics",
            "crate::speed",
            "crate::cli",
            "clap",
        ],
    ),
    (
        "harness/metrics",
        &[
            "crate::plan",
            "crate::stages",
            "crate::folder",
            "crate::suite",
            "crate::run",
            "crate::store",
            "crate::data",
            "crate::speed",
            "crate::cli",
            "clap",
        ],
    ),
    (
        "harness/store",
        &[
            "crate::plan",
            "crate::stages",
            "crate::folder",
            "crate::suite",
            "crate::run",
            "crate::data",
            "crate::metrics",
            "crate::speed",
            "crate::cli",
            "clap",
        ],
    ),
    (
        "harness/suite",
        &[
            "crate::plan",
            "crate::stages",
            "crate::folder",
            "crate::run",
            "crate::store",
            "crate::metrics",
            "crate::speed",
            "crate::cli",
            "clap",
        ],
    ),
    (
        "harness/speed",
        &[
            "crate::plan",
            "crate::stages",
            "crate::folder",
            "crate::run",
            "crate::cli",
            "crate::suite",
            "clap",
            "println!",
        ],
    ),
    (
        "harness/folder",
        &[
            "crate::cli",
            "crate::data",
            "crate::plan",
            "crate::run",
            "crate::speed",
            "crate::stages",
            "crate::suite",
            "clap",
            "println!",
        ],
    ),
    (
        "harness/stages",
        &[
            "crate::cli",
            "crate::plan",
            "crate::run",
            "clap",
            "indicatif",
            "println!",
        ],
    ),
    (
        "harness/plan",
        &[
            "crate::cli",
            "crate::folder",
            "crate::run",
            "clap",
            "indicatif",
            "println!",
        ],
    ),
    (
        "harness/run",
        &[
            "crate::cli",
            "clap",
            "indicatif",
            "println!",
            "std::env::args",
        ],
    ),
];

/// Exceptions: a file and a word that it may contain.
const ALLOWED: &[(&str, &str)] = &[
    // A manifest is YAML but not a suite.
    ("tokenizers/onnx/manifest.rs", "serde_yaml"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| ["rs", "cu", "cuh", "h"].iter().any(|kind| e == *kind))
        {
            found.push(path);
        }
    }
}

/// Returns every source file of a folder and its text without comment lines, which may contain any word.
fn code(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join(folder), &mut files);
    let strip = |text: String| {
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    };
    files
        .into_iter()
        .map(|path| (path.clone(), strip(std::fs::read_to_string(path).unwrap())))
        .collect()
}

#[test]
fn imports_run_one_way() {
    for (folder, words) in FORBIDDEN {
        let files = code(folder);
        assert!(!files.is_empty(), "{folder} has no sources");
        for (path, text) in files {
            for word in *words {
                let allowed = ALLOWED
                    .iter()
                    .any(|(file, allowed)| path.ends_with(file) && allowed == word);
                assert!(
                    allowed || !text.contains(word),
                    "{} mentions {word}; see ARCHITECTURE.md",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    for folder in ["harness", "tokenizers", "models", "reports", "tests"] {
        for (path, _) in code(folder) {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 500, "{}: {lines} lines", path.display());
        }
    }
}
