//! Rows that use the encoder that another row pretrains as features ("ClusterMIM MAE" of the paper's Table 7).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;

use common::{Bench, HEAD, RECIPE, column, error};

const MAE: &str =
    "  - {name: MAE, kind: continuous, with: {features: {kind: pixels, normalize: per-patch}}}\n";
const CLUSTERED: &str = "  - {name: K-means MAE, kind: kmeans, with: {features: {kind: checkpoint, row: MAE}, k: 5, epochs: 2, batch: 32}}\n";

/// Creates a suite with these rows in order, and the recipe.
fn suite(rows: &[&str]) -> Bench {
    Bench::new(&format!("{HEAD}tokenizers:\n{}{RECIPE}", rows.concat()))
}

#[test]
fn a_row_uses_the_encoder_that_another_row_pretrains() {
    // The dependent row comes first; a third row regresses the same features.
    let regressed = "  - {name: MAE features, kind: continuous, with: {features: {kind: checkpoint, row: MAE}}}\n";
    let bench = suite(&[CLUSTERED, regressed, MAE]);
    bench.fine(&["run", "suite.yaml"]);
    let run = bench.path("runs/tiny");
    assert_eq!(column(&run, "status"), ["ok"; 6]);
    let sizes = column(&run, "codebook_size");
    assert_eq!(sizes, ["5", "5", "", "", "", ""]);

    // The file of the first seed's encoder gives the same counts, with a separate store.
    let file = run.join("cells/mae-s0/encoder.safetensors");
    let from_file = CLUSTERED.replace("row: MAE", &format!("file: {}", file.display()));
    let other = suite(&[&from_file]);
    other.fine(&["score", "suite.yaml"]);
    let counts = |run: &Path| fs::read(run.join("cells/k-means-mae-s0/counts.npy")).unwrap();
    assert_eq!(counts(&run), counts(&other.path("runs/tiny")));
    let wrong = run.join("cells/mae-s1/encoder.safetensors");
    let wrong = CLUSTERED.replace("row: MAE", &format!("file: {}", wrong.display()));
    let other = suite(&[&wrong]);
    other.fine(&["score", "suite.yaml"]);
    assert_ne!(
        counts(&run),
        counts(&other.path("runs/tiny")),
        "another seed's encoder"
    );

    // Everything is now stored.
    let again = bench.fine(&["run", "suite.yaml", "--dry-run"]);
    assert!(!again.contains("to compute"), "{again}");
}

#[test]
fn score_does_not_pretrain_and_only_pretrains_the_required_encoder() {
    let bench = suite(&[MAE, CLUSTERED]);
    let scored = bench.bench(&["score", "suite.yaml"]);
    assert!(scored.status.success(), "{}", error(&scored));
    assert!(
        error(&scored)
            .contains("K-means MAE stays pending: it needs the pretrained encoder of MAE"),
        "{}",
        error(&scored)
    );
    let run = bench.path("runs/tiny");
    assert_eq!(column(&run, "status"), ["ok", "ok", "pending", "pending"]);
    let why = &column(&run, "error")[2];
    assert!(
        why.starts_with("waits for the pretrained encoder of MAE, then fit"),
        "{why}"
    );
    let tokens = [
        "tokenize",
        "suite.yaml",
        "--only",
        "K-means MAE",
        "--split",
        "val",
        "--out",
        "ids.npy",
    ];
    bench.refused(
        &tokens,
        &["needs the pretrained encoder of row \"MAE\"", "bench run"],
    );

    bench.fine(&["run", "suite.yaml", "--only", "K-means MAE"]);
    let states = ["pending", "pending", "ok", "ok"];
    assert_eq!(column(&run, "status"), states);
    bench.fine(&tokens);
    // Of the other row, only one seed was pretrained.
    let plan = bench.fine(&["run", "suite.yaml", "--only", "MAE", "--dry-run"]);
    let lines: Vec<&str> = plan
        .lines()
        .filter(|line| line.contains("pretrain"))
        .collect();
    assert!(
        lines[0].contains("pretrain stored, knn to compute"),
        "{plan}"
    );
    assert!(lines[1].contains("pretrain to compute"), "{plan}");
    bench.fine(&["score", "suite.yaml"]);
    assert_eq!(column(&run, "status"), ["ok"; 4]);
    assert_eq!(column(&run, "error"), [""; 4]);

    // A damaged encoder is reported and set aside; the row waits for a new one.
    let stored = fs::read_dir(bench.path("runs/.store/pretrain")).unwrap();
    for entry in stored.map(|entry| entry.unwrap().path()) {
        let encoder = entry.join("encoder.safetensors");
        if encoder.exists() {
            fs::write(encoder, "cut off").unwrap();
        }
    }
    let other = ["score", "suite.yaml", "--set", "tokenizers[1].with.k=6"];
    bench.refused(&other, &["K-means MAE", "bench run SUITE"]);
    let scored = bench.bench(&[&other[..], &["--out", "scored"]].concat());
    let text = error(&scored);
    assert!(scored.status.success(), "{text}");
    assert!(
        text.contains("encoder.safetensors") && text.contains("stays pending"),
        "{text}"
    );
    let states = column(&bench.path("scored"), "status");
    assert_eq!(states, ["ok", "ok", "pending", "pending"]);
}

#[test]
fn an_encoder_that_saw_labels_passes_this_on_to_its_tokens() {
    let bench = suite(&[
        "  - {name: Labelled, kind: token-file, with: {train: ids.npy, codebook_size: 7, saw_labels: true}}\n",
        "  - {name: Clustered, kind: kmeans, with: {features: {kind: checkpoint, row: Labelled}, k: 3, epochs: 1, batch: 32}}\n",
    ]);
    common::write_ids(&bench.path("ids.npy"), 96, 16, |at| (at % 7) as u32);
    bench.fine(&[
        "run",
        "suite.yaml",
        "--set",
        "pretrain.augment=fixed-view",
        "--set",
        "seeds=[0]",
    ]);
    assert_eq!(column(&bench.path("runs/tiny"), "saw_labels"), ["true"; 2]);
}

#[test]
fn rows_with_an_invalid_source_are_refused() {
    let refused =
        |rows: &[&str], parts: &[&str]| suite(rows).refused(&["validate", "suite.yaml"], parts);
    let of = |row: &str| CLUSTERED.replace("row: MAE", row);
    refused(
        &[MAE, &of("row: MEA")],
        &[
            "suite.yaml:11",
            "tokenizers[1].with.features.row",
            "no row is called \"MEA\"",
            "did you mean `MAE`?",
        ],
    );
    refused(
        &[MAE, &of("row: K-means MAE")],
        &["waits for itself: K-means MAE -> K-means MAE"],
    );
    let second = CLUSTERED
        .replace("K-means MAE", "Second")
        .replace("row: MAE", "row: K-means MAE");
    refused(
        &[&of("row: Second"), &second],
        &["waits for itself: K-means MAE -> Second -> K-means MAE"],
    );
    refused(
        &[MAE, &of("row: MAE, file: x")],
        &["found both of `row` and `file`"],
    );
    refused(&[MAE, &of("seed: 1")], &["unknown field `seed`"]);
    refused(
        &[MAE, &of("file: x.pth, variant: S")],
        &["with.features.file", "x.pth does not exist"],
    );
    refused(
        &[MAE, &of("row: MAE, saw_labels: true")],
        &["saw_labels", "leave it out"],
    );

    let absent = "  - {name: Absent, kind: token-file, optional: true, with: {train: no.npy, codebook_size: 7}}\n";
    let fixed = |rows: &[&str]| {
        let text = format!("{HEAD}tokenizers:\n{}{RECIPE}", rows.concat());
        Bench::new(&text.replace("random-resized-crop", "fixed-view"))
    };
    fixed(&[absent, &of("row: Absent")]).refused(
        &["validate", "suite.yaml"],
        &[
            "it needs row \"Absent\", which is skipped",
            "optional: true",
        ],
    );
    let optional = of("row: Absent").replace("kind: kmeans,", "kind: kmeans, optional: true,");
    let said = fixed(&[absent, MAE, &optional]).fine(&["validate", "suite.yaml"]);
    assert!(said.contains("skipped: it needs row \"Absent\""), "{said}");

    let alone = Bench::new(&format!("{HEAD}tokenizers:\n{MAE}{CLUSTERED}"));
    alone.refused(
        &["score", "suite.yaml"],
        &["row \"MAE\" is not pretrained", "`pretrain:`"],
    );
}

/// Every accuracy can be checked by others: the cells keep the encoder, also of a row without pretraining, and the predictions.
#[test]
fn cells_keep_every_encoder_and_the_predictions_of_knn() {
    let bench = Bench::whole();
    bench.fine(&["run", "suite.yaml", "--out", "out"]);
    let numbers = |path: &Path| -> Vec<u32> {
        let file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        npyz::NpyFile::new(&file[..]).unwrap().into_vec().unwrap()
    };
    let out = bench.path("out");
    let labels = numbers(&out.join("labels-val.npy"));
    let names = [
        "identity",
        "k-means-pixel-k-4",
        "k-means-pixel-k-8",
        "no-pretraining",
    ];
    let mut found = Vec::new();
    for name in names
        .iter()
        .flat_map(|name| [0, 1].map(|seed| format!("{name}-s{seed}")))
    {
        let cell = out.join("cells").join(name);
        assert!(
            cell.join("encoder.safetensors").is_file(),
            "{}",
            cell.display()
        );
        let predicted = numbers(&cell.join("predictions-knn.npy"));
        let right = predicted
            .iter()
            .zip(&labels)
            .filter(|(a, b)| a == b)
            .count();
        found.push(100.0 * right as f64 / labels.len() as f64);
    }
    let recorded = column(&out, "knn_top1")
        .into_iter()
        .map(|v| v.parse::<f64>().unwrap());
    let mut recorded: Vec<f64> = recorded.collect();
    assert_eq!(recorded.len(), found.len());
    // The order of rows is not that of the names.
    recorded.sort_by(f64::total_cmp);
    found.sort_by(f64::total_cmp);
    assert_eq!(found, recorded);
    // Another draw of the same seed is the same encoder.
    bench.fine(&["run", "suite.yaml", "--out", "again", "--store", "other"]);
    let encoder = |run: &str| {
        std::fs::read(
            bench
                .path(run)
                .join("cells/no-pretraining-s1/encoder.safetensors"),
        )
        .unwrap()
    };
    assert!(encoder("out") == encoder("again"));
}
