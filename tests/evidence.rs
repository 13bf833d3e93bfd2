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

/// Rows of an added run had no p, and stars only said that those of the first run have some.
#[test]
fn rows_of_an_added_run_have_the_tests_of_its_own_report() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let runs = fs::read_dir(&results)
        .unwrap()
        .map(|run| run.unwrap().path());
    let mut runs: Vec<PathBuf> = runs.filter(|run| run.is_dir()).collect();
    runs.sort();
    let bench = Bench::new("");
    let copy = bench.path("run");
    for file in files(&runs[0]) {
        fs::create_dir_all(copy.join(&file).parent().unwrap()).unwrap();
        fs::copy(runs[0].join(&file), copy.join(&file)).unwrap();
    }
    let other = runs[1].to_str().unwrap();
    bench.fine(&["report", "run", "--tables", "1", "--with", other]);
    // Differences, their p, and in Markdown the stars.
    let tests = |run: &Path| -> Vec<Vec<String>> {
        let mut reader = csv::Reader::from_path(run.join("tables/table1.csv")).unwrap();
        let names = reader.headers().unwrap().clone();
        let rows = reader.records().map(|row| {
            let row = row.unwrap();
            let fields = names.iter().zip(&row);
            let of_test = |name: &str| name.ends_with("_p") || name.ends_with("_delta");
            let fields = fields.filter(|(name, _)| of_test(name));
            fields.map(|(_, field)| field.to_owned()).collect()
        });
        rows.collect()
    };
    let both = [tests(&runs[0]), tests(&runs[1])].concat();
    assert_eq!(tests(&copy), both);
    let stars = |run: &Path| {
        let table = fs::read_to_string(run.join("tables/table1.md")).unwrap();
        let rows = table.lines().filter(|line| line.starts_with('|'));
        rows.map(|row| row.replace("**", "").matches('*').count())
            .sum::<usize>()
    };
    assert_eq!(stars(&copy), stars(&runs[0]) + stars(&runs[1]));
}
