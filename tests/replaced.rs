//! Finished results of a run folder are never replaced by none, and files of another recipe do not stay.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Bench, HEAD, RECIPE, ROWS, column, error, results};

const K4: &str = "K-means Pixel, K=4";
const RUN: [&str; 4] = ["run", "suite.yaml", "--out", "out"];

/// Returns the files of a run folder that are not hidden, without the log.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        match path.is_dir() {
            true => all.extend(files(&path)),
            false if name == "log.txt" || name.as_encoded_bytes()[0] == b'.' => {}
            false => _ = all.insert(path.clone(), std::fs::read(path).unwrap()),
        }
    }
    all
}

/// Asserts that `bench` refuses with a message that contains `parts`, and changes nothing in the run folder.
fn unchanged(bench: &Bench, args: &[&str], parts: &[&str]) {
    let before = files(&bench.path("out"));
    bench.refused(args, parts);
    assert!(files(&bench.path("out")) == before, "{args:?}");
}

/// A mistyped store looks like a suite without results.
#[test]
fn a_store_without_the_finished_results_is_refused_unless_they_are_computed() {
    let bench = Bench::whole();
    bench.fine(&RUN);
    let parts = [
        "4 rows (",
        K4,
        "the store mistyped lacks",
        "--store",
        "--out",
    ];
    let mistyped = [&RUN[..], &["--store", "mistyped"]].concat();
    unchanged(&bench, &[&mistyped[..], &["--collect"]].concat(), &parts);
    let parts = ["finished results of", "--out"];
    unchanged(&bench, &[&mistyped[..], &["--only", K4]].concat(), &parts);
    let whole = results(&bench.path("out"));
    bench.fine(&[&RUN[..], &["--collect"]].concat());
    assert_eq!(results(&bench.path("out")), whole);
    // Results of an earlier recipe are in the store, and those of the new one are computed.
    bench.fine(&[&RUN[..], &["--set", "knn.k=6"]].concat());
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 8]);
    // A run computes what a store has lost.
    std::fs::remove_dir_all(bench.path("runs/.store/pretrain")).unwrap();
    bench.fine(&RUN);
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 8]);
    bench.fine(&[&RUN[..], &["--store", "other"]].concat());
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 8]);
    // A folder of another store and recipe does not stop a complete collection.
    let third = ["--set", "knn.k=5", "--store", "third"];
    bench.fine(&[&["run", "suite.yaml", "--out", "elsewhere"][..], &third].concat());
    bench.fine(&[&RUN[..], &third, &["--collect"]].concat());
}

/// The results of the folder's recipe were replaced by `pending` rows, and those of a part that the suite leaves out went without a word.
#[test]
fn results_of_another_recipe_are_not_collected_over_finished_ones() {
    let bench = Bench::whole();
    bench.fine(&RUN);
    let collect = [&RUN[..], &["--collect"]].concat();
    let refused = ["4 rows (", K4, "of another recipe", "--out"];
    unchanged(
        &bench,
        &[&collect[..], &["--set", "knn.k=6"]].concat(),
        &refused,
    );
    let precision = [&collect[..], &["--precision", "bf16"]].concat();
    unchanged(&bench, &precision, &["computed in f32", "--precision f32"]);
    // A part that is left out is named; the next run finds it again.
    let whole = results(&bench.path("out"));
    let without = bench.bench(&[&collect[..], &["--set", "linear_probe=null"]].concat());
    let said = error(&without);
    assert!(without.status.success(), "{said}");
    let part = "no longer has results of 4 rows (";
    assert!(
        said.contains(part) && said.contains("does not ask for: probe"),
        "{said}"
    );
    assert!(
        column(&bench.path("out"), "lp_top1")
            .iter()
            .all(String::is_empty)
    );
    bench.fine(&collect);
    assert_eq!(results(&bench.path("out")), whole);
}

/// A damaged entry is computed again, also if the run ends between the two.
#[test]
fn a_store_that_has_moved_a_damaged_result_away_is_no_other_store() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    let args = ["score", "suite.yaml", "--out", "out"];
    bench.fine(&args);
    let count = bench.path("runs/.store/count");
    let damaged = bench.path("runs/.store/.damaged");
    std::fs::create_dir_all(&damaged).unwrap();
    for entry in std::fs::read_dir(&count).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        std::fs::rename(entry.path(), damaged.join(format!("count-{name}-1"))).unwrap();
    }
    bench.fine(&args);
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 8]);
}

#[test]
fn a_selection_does_not_replace_the_other_rows_by_none() {
    let bench = Bench::whole();
    bench.fine(&[&RUN[..], &["--precision", "bf16"]].concat());
    let only = [&RUN[..], &["--only", K4]].concat();
    let said = [
        "3 rows (",
        "Identity",
        "computed in bf16",
        "this run is f32",
        "--precision bf16",
    ];
    unchanged(&bench, &only, &said);
    bench.fine(&[&only[..], &["--precision", "bf16"]].concat());
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 8]);
    // The folder's suite repeats the run in the same type.
    bench.fine(&["run", "out/suite.yaml", "--out", "again"]);
    assert_eq!(results(&bench.path("again")), results(&bench.path("out")));
    let text = std::fs::read_to_string(bench.path("out/suite.yaml")).unwrap();
    assert!(text.contains("\nprecision: bf16\n"), "{text}");
    let other = [
        &only[..],
        &["--precision", "bf16", "--set", "pretrain.epochs=4"],
    ]
    .concat();
    unchanged(
        &bench,
        &other,
        &["2 rows (Identity", "bench run SUITE", "--out"],
    );
}

#[test]
fn a_score_does_not_replace_trained_rows() {
    let bench = Bench::whole();
    bench.fine(&RUN);
    let score = ["score", "suite.yaml", "--out", "out"];
    bench.fine(&score);
    assert!(
        column(&bench.path("out"), "lp_top1")
            .iter()
            .all(|v| !v.is_empty())
    );
    let other = [&score[..], &["--set", "patch_size=8"]].concat();
    unchanged(&bench, &other, &["4 rows (", "bench run SUITE", "--out"]);
    bench.fine(&[&RUN[..], &["--set", "patch_size=8"]].concat());
}

/// A loop over encoders took those of an earlier recipe.
#[test]
fn files_of_another_recipe_do_not_stay() {
    let bench = Bench::whole();
    let out = bench.path("out");
    bench.fine(&RUN);
    let first = files(&out.join("cells"));
    // A node of the changed suite has run.
    let changed = ["--set", "pretrain.epochs=4"];
    let elsewhere = [
        "run",
        "suite.yaml",
        "--out",
        "elsewhere",
        "--only",
        "Identity",
    ];
    bench.fine(&[&elsewhere[..], &changed].concat());
    let output = bench.bench(&[&RUN[..], &["--collect"], &changed].concat());
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    let row = out.join("cells/k-means-pixel-k-4-s0");
    let names: Vec<PathBuf> = files(&row).into_keys().collect();
    let kept = |name: &str| names.contains(&row.join(name));
    assert!(
        kept("codebook.safetensors") && kept("counts.npy"),
        "{names:?}"
    );
    let is_trained = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let trained = ["pretrained", "encoder", "probe", "finetuned", "predictions"];
        trained.iter().any(|start| name.starts_with(start))
    };
    assert_eq!(names.iter().find(is_trained), None);
    assert!(
        out.join("cells/no-pretraining-s0/encoder.safetensors")
            .exists()
    );
    let sums = std::fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    assert!(!sums.contains("k-4-s0/predictions"), "{sums}");
    bench.fine(&RUN);
    assert!(files(&out.join("cells")) == first);
    // A row that the suite no longer has, beside a file of the user.
    std::fs::write(row.join("mine.txt"), "mine").unwrap();
    let rows = ROWS.replace("k: [4, 8]", "k: [9]");
    std::fs::write(bench.path("suite.yaml"), format!("{HEAD}{rows}{RECIPE}")).unwrap();
    bench.fine(&RUN);
    let left: Vec<PathBuf> = files(&row).into_keys().collect();
    assert_eq!(left, [row.join("mine.txt")]);
    assert!(!out.join("cells/k-means-pixel-k-8-s0").exists());
}

/// The suite's precision selects the encoder, and `--precision` and `--device` override it.
#[test]
fn a_row_on_an_encoder_is_tokenized_in_the_precision_of_the_suite() {
    let rows = "tokenizers:
  - {name: Identity, kind: continuous, with: {features: {kind: pixels, normalize: per-patch}}}
  - {name: On, kind: kmeans, with: {features: {kind: checkpoint, row: Identity}, k: 4, epochs: 2, batch: 32}}
precision: bf16
pretrain: {epochs: 1, batch: 32, base_lr: 1.0e-3, warmup_epochs: 0}
";
    let bench = Bench::new(&format!("{HEAD}{rows}").replace("[0, 1]", "[0]"));
    bench.fine(&RUN);
    let args = [
        "tokenize",
        "suite.yaml",
        "--only",
        "On",
        "--split",
        "train",
        "--out",
        "ids.npy",
    ];
    bench.fine(&[&args[..], &["--device", "cpu"]].concat());
    let ids: Vec<u32> = npyz::NpyFile::new(&std::fs::read(bench.path("ids.npy")).unwrap()[..])
        .unwrap()
        .into_vec()
        .unwrap();
    let counts = std::fs::read(bench.path("out/cells/on-s0/counts.npy")).unwrap();
    let counts: Vec<u64> = npyz::NpyFile::new(&counts[..]).unwrap().into_vec().unwrap();
    for (code, row) in counts.chunks(counts.len() / 4).enumerate() {
        let found = ids.iter().filter(|id| **id as usize == code).count();
        assert_eq!(found as u64, row.iter().sum::<u64>(), "code {code}");
    }
    let other = [&args[..], &["--precision", "f32"]].concat();
    bench.refused(&other, &["needs the pretrained encoder"]);
    let looked_up = [&args[..], &["--arch", "aarch64"]].concat();
    bench.refused(&looked_up, &["--arch", "under the name of another"]);
    bench.refused(
        &["tokenize", "suite.yaml", "--split", "val", "--out", "x"],
        &["--only"],
    );
}

/// Returns a folder with a finished run of one row.
fn one_row() -> Bench {
    let row =
        "tokenizers: [{name: Identity, kind: continuous, with: {features: {kind: pixels}}}]\n";
    let recipe =
        "pretrain: {epochs: 1, batch: 32, base_lr: 1.0e-3, warmup_epochs: 0}\nknn: {k: 5}\n";
    let bench = Bench::new(&format!("{HEAD}{row}{recipe}"));
    bench.fine(&RUN);
    bench
}

/// `bench compare` called the runs not comparable, although every stage was the same.
#[test]
fn a_setting_that_changes_no_number_is_no_other_recipe() {
    let bench = one_row();
    let set = "pretrain.gradient_checkpointing=true";
    bench.fine(&["run", "suite.yaml", "--out", "other", "--set", set]);
    let hash = |out: &str| column(&bench.path(out), "recipe_hash");
    assert_eq!(hash("out"), hash("other"));
    bench.fine(&["compare", "out", "other"]);
}

/// A command that was refused for its memory had already made finished rows pending.
#[test]
#[cfg(target_os = "linux")]
fn a_refused_run_changes_nothing() {
    let bench = one_row();
    let before = files(&bench.path("out"));
    let program = bench.command(&[]).get_program().to_owned();
    let mut limited = std::process::Command::new("sh");
    limited.current_dir(bench.dir.path());
    let line = "ulimit -v 4000000; exec \"$0\" run suite.yaml --out out --threads 1 --set backbone.variant=H";
    let output = limited.args(["-c", line]).arg(program).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", error(&output));
    assert!(error(&output).contains("needs about"), "{}", error(&output));
    assert!(files(&bench.path("out")) == before);
}

/// Rows failed because their copies in the run folder could not be opened for writing.
#[test]
#[cfg(unix)]
fn copies_of_read_only_files_of_the_store_are_writable() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    for path in files(&bench.path("runs/.store")).into_keys() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    bench.fine(&["score", "suite.yaml", "--out", "other"]);
    let copy = bench.path("other/cells/k-means-pixel-k-4-s0/codebook.safetensors");
    let mode = std::fs::metadata(copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o600, 0o600);
}

/// The other row left the folder for good, although `SHA256SUMS` shows that its line was cut off.
#[test]
fn a_selection_keeps_rows_whose_lines_were_cut_off() {
    let bench = Bench::whole();
    let out = bench.path("out");
    bench.fine(&RUN);
    let whole = results(&out);
    let path = out.join("results.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    let kept = text.lines().filter(|line| !line.contains(K4));
    let kept: Vec<&str> = kept.collect();
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    bench.fine(&[&RUN[..], &["--only", "No pretraining"]].concat());
    assert_eq!(results(&out), whole);
}

/// A mistyped `--store` computed everything again without a word.
#[test]
fn a_new_store_beside_earlier_results_is_said() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    let score = ["score", "suite.yaml", "--out", "out"];
    let said = |store: &str| {
        let output = bench.bench(&[&score[..], &["--store", store]].concat());
        assert!(output.status.success());
        common::error(&output).contains("is new and has no results")
    };
    assert!(!said("a"), "the first run");
    assert!(!said("a"));
    assert!(said("b"));
}
