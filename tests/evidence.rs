//! The committed evidence in `results/`: `bench report` draws it again byte for byte.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Bench, error};

/// What `bench report` writes. Git has only some of the figures: the page holds all of them.
const DRAWN: [&str; 3] = ["report.html", "tables", "figures"];

/// Returns the files below `folder`, relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().to_path_buf()),
            }
        }
    }
    found.retain(|file| !(file.starts_with("figures") && file.extension().unwrap() == "png"));
    found.sort();
    found
}

#[test]
fn committed_evidence_is_drawn_again_byte_for_byte() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let bench = Bench::new("");
    let mut runs = 0;
    for entry in fs::read_dir(&results).unwrap() {
        let run = entry.unwrap().path();
        if !run.is_dir() {
            continue;
        }
        runs += 1;
        let expected = files(&run);
        let drawn = |file: &&PathBuf| DRAWN.iter().any(|part| file.starts_with(part));
        assert!(expected.iter().filter(drawn).count() > 10, "{run:?}");
        let copy = bench.path(run.file_name().unwrap().to_str().unwrap());
        for file in expected.iter().filter(|file| !drawn(file)) {
            fs::create_dir_all(copy.join(file).parent().unwrap()).unwrap();
            fs::copy(run.join(file), copy.join(file)).unwrap();
        }
        let output = bench.bench(&["report", copy.to_str().unwrap()]);
        assert!(output.status.success(), "{run:?}: {}", error(&output));
        for file in &expected {
            let [found, expected] =
                [&copy, &run].map(|folder| fs::read(folder.join(file)).unwrap());
            assert!(
                found == expected,
                "{file:?} of {run:?} differs: `bench report {run:?}`"
            );
        }
    }
    assert!(runs > 0, "no run in {results:?}");
}
