//! Attentive probes, bags of tokens, RankMe, the places of codes, and layers, from the suite to the run folder.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, HEAD, RECIPE, ROWS, column, results};

/// The small suite with every measurement.
fn suite() -> String {
    let more = "attentive_probe: {epochs: 4, batch: 32, base_lr: [0.01, 0.05], queries: 8, warmup_epochs: 1, augment: none}
bag_of_tokens: {}
";
    let recipe = RECIPE.replace("temperature: 0.07}", "temperature: 0.07, rankme: true}");
    format!("{HEAD}{ROWS}{recipe}{more}")
}

fn filled(bench: &Bench, name: &str) -> Vec<bool> {
    let values = column(&bench.path("out"), name);
    values.iter().map(|value| !value.is_empty()).collect()
}

#[test]
fn every_measurement_is_in_the_run_folder() {
    let bench = Bench::new(&suite());
    let said = bench.fine(&["run", "suite.yaml", "--dry-run"]);
    for stage in ["attentive to compute", "bag to compute"] {
        assert!(said.contains(stage), "{said}");
    }
    bench.fine(&["run", "suite.yaml", "--out", "out", "--threads", "2"]);
    let out = bench.path("out");
    // No pretraining, Identity, and two rows with ids, with two seeds each.
    let ids = [false, false, false, false, true, true, true, true];
    for name in [
        "bag_top1",
        "bag_top5",
        "bag_l2",
        "mi_position",
        "mi_left",
        "mi_upper_null",
    ] {
        assert_eq!(filled(&bench, name), ids, "{name}");
    }
    for name in [
        "ap_top1",
        "ap_top5",
        "ap_base_lr",
        "attentive_seconds",
        "rankme",
    ] {
        assert_eq!(filled(&bench, name), [true; 8], "{name}");
    }
    assert_eq!(column(&out, "ap_form")[0], "multi-query 8");
    let bag = column(&out, "bag_top1");
    assert_eq!(bag[4], bag[5], "it does not depend on the seed");
    let comparisons = std::fs::read_to_string(out.join("comparisons.csv")).unwrap();
    assert!(comparisons.contains("\nap,"), "{comparisons}");
    let history = std::fs::read_to_string(out.join("cells/identity-s0/history.csv")).unwrap();
    let epochs = history
        .lines()
        .filter(|line| line.starts_with("attentive,"));
    assert_eq!(epochs.count(), 4);
    for file in [
        "cells/identity-s0/attentive.safetensors",
        "cells/identity-s0/predictions-attentive.npy",
        "cells/k-means-pixel-k-4-s1/predictions-bag.npy",
        "figures/curves-attentive.svg",
        "figures/classes-ap.svg",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    // A run from the start gives the same bytes on another number of threads.
    let again = ["--out", "again", "--store", "other", "--threads", "1"];
    bench.fine(&[&["run", "suite.yaml"][..], &again].concat());
    assert_eq!(results(&bench.path("again")), results(&out));
    // `bench score` computes what needs no encoder.
    bench.fine(&[
        "score",
        "suite.yaml",
        "--out",
        "scored",
        "--set",
        "fit_seeds=[0]",
    ]);
    assert_eq!(column(&bench.path("scored"), "bag_top1"), bag);
}

#[test]
fn the_single_query_form_and_random_crops_train() {
    let bench = Bench::new(&suite());
    let args = [
        "--set",
        "attentive_probe={epochs: 2, batch: 32, base_lr: 0.01, form: single-query, warmup_epochs: 0, optimizer: lars}",
        "--set",
        "fine_tune=null",
        "--set",
        "seeds=[0]",
    ];
    bench.fine(&[&["run", "suite.yaml", "--out", "out"][..], &args].concat());
    assert_eq!(filled(&bench, "ap_top1"), [true; 4]);
    assert_eq!(column(&bench.path("out"), "ap_form"), ["single-query"; 4]);
}

#[test]
fn the_last_block_is_the_default_and_others_differ() {
    let bench = Bench::new(&suite());
    let run = |out: &str, layer: &str| {
        let sets = [
            format!("knn.layer={layer}"),
            format!("linear_probe.layer={layer}"),
            format!("attentive_probe.layer={layer}"),
            "fine_tune=null".to_owned(),
            "seeds=[0]".to_owned(),
        ];
        let sets = sets.iter().flat_map(|set| ["--set", set.as_str()]);
        let args = ["run", "suite.yaml", "--only", "Identity", "--out", out];
        bench.fine(&Vec::from_iter(args.into_iter().chain(sets)));
        ["knn_top1", "lp_top1", "ap_top1", "rankme"].map(|name| column(&bench.path(out), name))
    };
    // The model has four blocks.
    let last = run("last", "last-1");
    assert_eq!(run("fourth", "4"), last);
    assert_ne!(run("second", "2"), last);
    assert_ne!(run("both", "last-2"), last);
}

#[test]
fn another_row_clusters_a_layer() {
    let rows = "tokenizers:
  - {name: First, kind: kmeans, with: {features: {kind: hog}, k: 6, epochs: 2, batch: 32}}
  - {name: \"Second, {features.layer}\", kind: kmeans, with: {features: {kind: checkpoint, row: First}, k: 6, epochs: 2, batch: 32}, sweep: {features.layer: [2, 4, last-2]}}
  - {name: Third, kind: kmeans, with: {features: {kind: checkpoint, row: \"Second, 2\", layer: 2}, k: 6, epochs: 2, batch: 32}}
";
    let bench = Bench::new(&format!("{HEAD}{rows}{RECIPE}"));
    let args = [
        "--set",
        "fine_tune=null",
        "--set",
        "linear_probe=null",
        "--set",
        "seeds=[0]",
    ];
    bench.fine(&[&["run", "suite.yaml", "--out", "out"][..], &args].concat());
    let tcas = column(&bench.path("out"), "tcas");
    assert_eq!(column(&bench.path("out"), "status"), ["ok"; 5]);
    assert_ne!(tcas[1], tcas[2]);
    let wrong = "tokenizers[0].with.features={kind: checkpoint, row: Third, layer: 5}";
    bench.refused(
        &["validate", "suite.yaml", "--set", wrong],
        &["layer", "found 5", "depth"],
    );
}

#[test]
fn wrong_fields_are_refused() {
    let bench = Bench::new(&suite());
    for (set, parts) in [
        (
            "attentive_probe.queries=7",
            &["attentive_probe.queries", "found 7", "divisor"][..],
        ),
        ("attentive_probe.queries=0", &["attentive_probe.queries"]),
        (
            "attentive_probe.form=single-query",
            &["attentive_probe.queries", "none with"],
        ),
        ("attentive_probe.form=triple", &["attentive_probe.form"]),
        (
            "attentive_probe.warmup_epochs=5",
            &["attentive_probe.warmup_epochs"],
        ),
        ("attentive_probe.base_lr=[]", &["attentive_probe.base_lr"]),
        ("attentive_probe.batch=0", &["attentive_probe.batch"]),
        ("bag_of_tokens.l2=0", &["bag_of_tokens.l2", "above 0"]),
        ("bag_of_tokens.C=1", &["bag_of_tokens.C"]),
        ("knn.layer=0", &["knn.layer"]),
        ("knn.layer=5", &["knn.layer", "found 5", "depth"]),
        (
            "linear_probe.layer=last-9",
            &["linear_probe.layer", "last-9", "depth"],
        ),
        ("linear_probe.layer=first", &["linear_probe.layer", "first"]),
        ("attentive_probe.layer=-1", &["attentive_probe.layer"]),
        ("pretrain=null", &["pretrain", "attentive_probe"]),
    ] {
        bench.refused(&["run", "suite.yaml", "--out", "out", "--set", set], parts);
    }
}

/// A file with a classifier was trained with labels, whether or not the suite says so.
#[test]
fn a_checkpoint_with_a_classifier_saw_labels() {
    let row = "tokenizers:
  - {name: Own, kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 1, batch: 32}}
";
    let bench = Bench::new(&format!("{HEAD}{row}{RECIPE}"));
    let less = ["--set", "linear_probe=null", "--set", "seeds=[0]"];
    bench.fine(
        &[
            &[
                "run",
                "suite.yaml",
                "--out",
                "own",
                "--set",
                "fine_tune.pooling=cls",
            ][..],
            &less,
        ]
        .concat(),
    );
    let cell = |file: &str| format!("own/cells/own-s0/{file}");
    let (tuned, own) = (cell("finetuned.safetensors"), cell("encoder.safetensors"));
    let features = |name: &str, more: &str| {
        format!(
            "  - {{name: {name}, kind: kmeans, with: {{features: {{kind: checkpoint, file: {more}}}, k: 4, epochs: 1, batch: 32}}}}\n"
        )
    };
    let theirs = |name: &str, more: &str| {
        format!(
            "  - {{name: {name}, kind: none, override: {{pretrain: {{checkpoint: {more}}}}}}}\n"
        )
    };
    let rows = [
        features("A", &tuned),
        features("B", &format!("{tuned}, saw_labels: false")),
        features("C", &own),
        theirs("D", &tuned),
        theirs("E", &format!("{tuned}, checkpoint_saw_labels: false")),
        theirs("F", &own),
        theirs("G", &format!("{own}, checkpoint_saw_labels: true")),
    ];
    let suite = format!("{HEAD}tokenizers:\n{}{RECIPE}", rows.concat());
    std::fs::write(bench.path("other.yaml"), suite).unwrap();
    bench.fine(
        &[
            &[
                "run",
                "other.yaml",
                "--out",
                "out",
                "--set",
                "fine_tune=null",
            ][..],
            &less,
        ]
        .concat(),
    );
    let out = bench.path("out");
    assert_eq!(column(&out, "status"), ["ok"; 7]);
    let saw = ["true", "false", "false", "true", "false", "false", "true"];
    assert_eq!(column(&out, "saw_labels"), saw);
    // What is stored says the same, also of rows that are not selected or not computed.
    for again in [&["run"][..], &["run", "--only", "C"], &["score"]] {
        let args = ["other.yaml", "--out", "out", "--set", "fine_tune=null"];
        bench.fine(&[again, &args[..], &less].concat());
        assert_eq!(column(&out, "saw_labels"), saw, "{again:?}");
    }
    let alone = "pretrain.checkpoint_saw_labels=true";
    bench.refused(
        &["validate", "suite.yaml", "--set", alone],
        &["checkpoint_saw_labels", "`checkpoint` beside it"],
    );
}

#[test]
fn a_bag_of_tokens_needs_ids_of_the_val_split() {
    let row = "tokenizers: [{name: T, kind: token-file, with: {train: ids.npy, codebook_size: 8}}]\nbag_of_tokens: {}\n";
    let bench = Bench::new(&format!("{HEAD}{row}"));
    common::write_ids(&bench.path("ids.npy"), 96, 16, |at| at as u32 % 8);
    bench.refused(
        &["validate", "suite.yaml"],
        &["with.val", "`bag_of_tokens`"],
    );
    bench.fine(&["score", "suite.yaml", "--set", "bag_of_tokens=null"]);
}

/// BatchNorm makes zeros of a single image, so such a probe learned only its bias and said nothing.
#[test]
fn probes_on_batches_of_one_image_are_refused() {
    let bench = Bench::new(&suite());
    for probe in ["linear_probe", "attentive_probe"] {
        let set = format!("{probe}.batch=1");
        bench.refused(
            &["validate", "suite.yaml", "--set", &set],
            &[&format!("{probe}.batch"), "2"],
        );
    }
}
