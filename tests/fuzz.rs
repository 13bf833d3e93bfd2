//! Replays the corpora of `fuzz/`: every parser of files from outside accepts or refuses each input without a panic.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Returns the files of the corpus of a target.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// If all inputs were refused, nothing behind the reader would be tried.
#[test]
fn the_first_input_of_results_is_a_run() {
    let [seed] = &corpus("results")
        .into_iter()
        .filter(|file| file.ends_with("quickstart"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("no seed")
    };
    let folder = tempfile::tempdir().unwrap();
    let run = targets::run_of(&std::fs::read(seed).unwrap(), folder.path()).unwrap();
    assert_eq!(run.records.len(), 4);
}

#[test]
fn no_input_of_a_corpus_makes_its_parser_panic() {
    for (target, run) in targets::TARGETS {
        let files = corpus(target);
        assert!(!files.is_empty(), "fuzz/corpus/{target} is empty");
        for file in files {
            let input = std::fs::read(&file).unwrap();
            let result = std::panic::catch_unwind(|| run(&input));
            assert!(result.is_ok(), "{}", file.display());
        }
    }
}
