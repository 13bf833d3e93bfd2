//! Shared by the integration tests: a small suite in its own folder, and the program.

#![allow(dead_code, reason = "each test file uses only a part")]

pub mod onnx;
pub mod programs;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

/// The suite without rows and recipe.
pub const HEAD: &str = "version: 1
name: tiny
seeds: [0, 1]
dataset: {kind: mosaics, seed: 3, train: 96, val: 40, size: 16}
image_size: 16
patch_size: 4
eval_transform: {resize_shorter: 16, crop: 16}
backbone: {variant: nano}
";

/// Three tokenizer rows and a baseline.
pub const ROWS: &str = "tokenizers:
  - {name: Identity, kind: continuous, with: {features: {kind: pixels, normalize: per-patch}}}
  - {name: \"K-means Pixel, K={k}\", kind: kmeans, with: {features: {kind: pixels}, epochs: 2, batch: 32}, sweep: {k: [4, 8]}}
baselines: [no-pretraining]
";

/// A recipe that takes seconds.
pub const RECIPE: &str = "pretrain: {epochs: 3, batch: 32, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: random-resized-crop}
knn: {k: 5, temperature: 0.07}
linear_probe: {epochs: 5, batch: 64, base_lr: [0.01, 0.1], pooling: cls, warmup_epochs: 1, augment: none}
fine_tune: {epochs: 2, batch: 32, base_lr: 1.0e-3, layer_decay: 0.75, pooling: mean, warmup_epochs: 0.5, mixup: 0.8, cutmix: 1.0}
report: {tables: [1, 2, 7]}
";

/// A folder that contains a suite.
pub struct Bench {
    /// The folder, deleted on drop.
    pub dir: tempfile::TempDir,
}

impl Bench {
    /// Creates a folder with `suite` as `suite.yaml`.
    pub fn new(suite: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("suite.yaml"), suite).unwrap();
        Self { dir }
    }

    /// Creates a folder with the whole small suite.
    pub fn whole() -> Self {
        Self::new(&format!("{HEAD}{ROWS}{RECIPE}"))
    }

    /// Creates a suite with one row `T` of the given kind and fields, on 32-pixel mosaics in an 8x8 grid.
    pub fn on_32_pixels(kind: &str, with: &str) -> Self {
        let head = HEAD
            .replace("val: 40, size: 16", "val: 40, size: 32")
            .replace("image_size: 16", "image_size: 32")
            .replace(
                "{resize_shorter: 16, crop: 16}",
                "{resize_shorter: 32, crop: 32}",
            );
        Self::new(&format!(
            "{head}tokenizers: [{{name: T, kind: {kind}, with: {with}}}]\n{RECIPE}"
        ))
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the command `bench` with arguments, run in the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command.args(args).current_dir(self.dir.path());
        command.env_remove("TESSERA_STORE");
        // The result must not depend on what is installed on the machine.
        command.env("TESSERA_ONNX", "rten");
        command
    }

    /// Runs `bench` and returns its output.
    pub fn bench(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `bench`, asserts success, and returns its standard output.
    pub fn fine(&self, args: &[&str]) -> String {
        let output = self.bench(args);
        assert!(output.status.success(), "{args:?}: {}", error(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `bench` and asserts that it refuses with status 2 and a message that contains all of `parts`.
    pub fn refused(&self, args: &[&str], parts: &[&str]) {
        let output = self.bench(args);
        let said = error(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "expected {part:?} in: {said}");
        }
    }
}

/// Writes ids, u32 `[images, patches]`, as `.npy`.
pub fn write_ids(path: &Path, images: usize, patches: usize, id: impl Fn(usize) -> u32) {
    use npyz::WriterBuilder;
    let file = std::fs::File::create(path).unwrap();
    let options = npyz::WriteOptions::new().default_dtype();
    let options = options.shape(&[images as u64, patches as u64]);
    let mut writer = options.writer(file).begin_nd().unwrap();
    writer.extend((0..images * patches).map(id)).unwrap();
    writer.finish().unwrap();
}

/// Prints a line on standard error. The test harness captures the output of passing tests.
pub fn tell(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints that a test was skipped, and why.
pub fn skipped(why: &str) {
    tell(&format!("SKIPPED: {why}"));
}

/// Returns whether an ONNX Runtime library can be opened. Without one, it prints that this half of the test is skipped.
pub fn onnxruntime() -> bool {
    let bench = Bench::new("");
    let output = bench
        .command(&["doctor"])
        .env("TESSERA_ONNX", "onnxruntime")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = said.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        words == ["ONNX", "onnxruntime"]
    });
    if !found {
        skipped("no ONNX Runtime to compare rten with (ORT_DYLIB_PATH or VIRTUAL_ENV)");
    }
    found
}

/// Returns standard error as text.
pub fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends the signal `name`, such as STOP, to a running program.
pub fn signal(child: &Child, name: &str) {
    let line = format!("kill -{name} {}", child.id());
    let sent = Command::new("sh").args(["-c", &line]).status();
    assert!(sent.unwrap().success());
}

/// Returns the rows of `results.csv` without the columns of seconds.
pub fn results(run: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(run.join("results.csv")).unwrap();
    let keep: Vec<bool> = reader
        .headers()
        .unwrap()
        .iter()
        .map(|name| !name.ends_with("_seconds"))
        .collect();
    let rows = reader.records().map(|row| {
        let row = row.unwrap();
        let kept = row.iter().zip(&keep).filter(|(_, keep)| **keep);
        kept.map(|(field, _)| field.to_owned()).collect()
    });
    rows.collect()
}

/// Returns the values of one column of `results.csv`.
pub fn column(run: &Path, name: &str) -> Vec<String> {
    let mut reader = csv::Reader::from_path(run.join("results.csv")).unwrap();
    let at = reader.headers().unwrap().iter().position(|h| h == name);
    let at = at.unwrap();
    let rows = reader.records();
    rows.map(|row| row.unwrap()[at].to_owned()).collect()
}

/// Returns the lines of `metrics.csv` of a row, without its name.
pub fn metrics(bench: &Bench, row: &str) -> Vec<String> {
    let text = std::fs::read_to_string(bench.path("out/metrics.csv")).unwrap();
    let name = format!("{row},");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&name));
    lines.map(str::to_owned).collect()
}
