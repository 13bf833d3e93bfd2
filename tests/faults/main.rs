//! Nothing is lost, and nothing damaged is believed: failing system calls, changed bytes, several processes.
//!
//! `cargo test --release --test faults` is the quick form; `tests/faults.sh` the whole.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod datasets;
#[cfg(feature = "hub")]
mod fetch;
mod inject;
mod processes;
#[cfg(feature = "hub")]
#[allow(dead_code, reason = "a part is enough")]
#[path = "../fetch/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Bench, error, results};

/// One row through every stage in a tenth of a second; ids are kept (`fixed-view`).
const SUITE: &str = "version: 1
name: faults
seeds: [0]
dataset: {kind: mosaics, seed: 3, train: 16, val: 8, size: 8}
image_size: 8
patch_size: 4
eval_transform: {resize_shorter: 8, crop: 8}
backbone: {variant: nano}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 3, epochs: 1, batch: 8}}
pretrain: {epochs: 3, batch: 8, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: fixed-view}
knn: {k: 2, temperature: 0.07}
linear_probe: {epochs: 2, batch: 8, base_lr: 0.1, pooling: cls, warmup_epochs: 1, augment: none}
fine_tune: {epochs: 1, batch: 8, base_lr: 1.0e-3, layer_decay: 0.75, pooling: mean, warmup_epochs: 0.5}
report: {tables: [1]}
";

/// As [`SUITE`], with a row that is compared with the first.
fn of_two_rows() -> String {
    let row = "  - {name: L, kind: kmeans, with: {features: {kind: pixels}, k: 2, epochs: 1, batch: 8}}\n";
    SUITE
        .replace("seeds:", "baseline: K\nseeds:")
        .replace("pretrain:", &format!("{row}pretrain:"))
}

/// Whether to try everything.
fn whole() -> bool {
    std::env::var_os("TESSERA_FAULTS").is_some_and(|wish| wish == "whole")
}

/// A folder with the suite, and the results that every run of it must have.
struct Trial {
    bench: Bench,
    expected: Vec<Vec<String>>,
}

impl Trial {
    fn new() -> Self {
        Self::of(Bench::new(SUITE))
    }

    fn of(bench: Bench) -> Self {
        bench.fine(&run("whole", "store-whole"));
        let expected = numbers(&bench.path("whole"));
        Self { bench, expected }
    }

    /// The program's run of `out` and `store`.
    fn command(&self, out: &str, store: &str) -> Command {
        self.bench.command(&run(out, store))
    }

    /// Runs it without faults: it must end well, with the right results and nothing temporary left; what it says.
    fn must_end_well(&self, (out, store): (&str, &str), after: &str) -> String {
        let output = self.command(out, store).output().unwrap();
        let said = error(&output);
        assert!(output.status.success(), "after {after}: {said}");
        self.must_be_right(out, after);
        let left = self.files(out).into_iter().chain(self.files(store));
        let left: Vec<_> = left.filter(|path| is_temporary(path)).collect();
        assert!(left.is_empty(), "after {after}: {left:?}");
        let scratch = std::fs::read_dir(self.bench.path(store).join(".tmp"));
        assert_eq!(scratch.into_iter().flatten().count(), 0, "after {after}");
        said
    }

    /// Every file under a folder of the trial, relative to the trial's.
    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let base = self.bench.dir.path();
        let all = files(&base.join(folder)).into_iter();
        all.map(|path| path.strip_prefix(base).unwrap().to_owned())
            .collect()
    }

    /// Only a gallery may be lacking, which `error` and the notes of tables say.
    fn must_have_all_numbers(&self, out: &str, after: &str) {
        let found = numbers(&self.bench.path(out));
        let (found, expected) = (found.iter().flatten(), self.expected.iter().flatten());
        assert_eq!(
            found.clone().count(),
            expected.clone().count(),
            "after {after}"
        );
        for (found, expected) in found.zip(expected) {
            let is_same = match found.split_once("no gallery: ") {
                // The notes end a line, in quotes.
                Some((before, _)) => {
                    let numbers = |line: &str| line.split('"').next().unwrap().to_owned();
                    numbers(before) == numbers(expected)
                }
                None => found == expected,
            };
            assert!(is_same, "after {after}: {found}, expected {expected}");
        }
    }

    fn must_be_right(&self, out: &str, after: &str) {
        let found = numbers(&self.bench.path(out));
        assert_eq!(found, self.expected, "after {after}");
    }
}

/// Returns the numbers of a run folder: the rows of `results.csv` without times, and name and lines of every other CSV file but those of cells and costs.
fn numbers(out: &Path) -> Vec<Vec<String>> {
    let mut all = results(out);
    for path in files(out) {
        let name = path.strip_prefix(out).unwrap().to_str().unwrap();
        // A run writes a table again whose file it cannot look at, because it may be of an earlier report.
        let is_further = name.starts_with("tables/") && !name.ends_with("table1.csv");
        let others = ["results.csv", "costs.csv"].contains(&name)
            || name.starts_with("cells/")
            || is_further;
        if name.ends_with(".csv") && !others {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = std::iter::once(name).chain(text.lines());
            all.push(lines.map(str::to_owned).collect());
        }
    }
    all
}

/// Writes `count` pictures for each of two classes and splits below `images`, and has the suite use them.
fn use_pictures(bench: &Bench, count: u8, more: &str) {
    let _ = std::fs::remove_dir_all(bench.path("images"));
    for (split, shade) in [("train", 90), ("val", 200)] {
        for class in ["ant", "bee"] {
            let folder = bench.path("images").join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for number in 0..count {
                let pixel = |x, y| image::Rgb([shade, 30 * (number % 8), (x + y) as u8 + number]);
                let picture = image::RgbImage::from_fn(8, 8, pixel);
                picture.save(folder.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    let images = format!("dataset: {{kind: image-folder, root: images{more}}}");
    let mut lines: Vec<&str> = SUITE.lines().collect();
    lines[3] = &images;
    std::fs::write(bench.path("suite.yaml"), lines.join("\n")).unwrap();
}

/// Arguments of a run on one thread that writes resume state after every step.
fn run<'a>(out: &'a str, store: &'a str) -> [&'a str; 10] {
    let suite = "suite.yaml";
    let every = "--checkpoint-every";
    [
        "run",
        suite,
        "--threads",
        "1",
        every,
        "0",
        "--out",
        out,
        "--store",
        store,
    ]
}

/// An output of the program that ran under faults: it may fail, it may not panic.
fn must_not_panic(output: &Output, under: &str) {
    let said = error(output);
    assert!(!said.contains("panicked"), "under {under}: {said}");
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

fn is_temporary(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part.contains(".tmp-") || part == ".locks" || part == ".used"
    })
}

/// Numbers that are the same every time: Knuth's MMIX generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
