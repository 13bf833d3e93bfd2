mod direction;
mod fits;
mod seeds;
mod tokenizers;

use super::*;
use crate::columns::MetricRow;
use crate::paired::Predicted;

fn record(name: &str, seed: u64, lp: f64) -> Record {
    Record {
        tokenizer: name.into(),
        seed,
        dataset: "mosaics".into(),
        class_list_hash: "abcd".into(),
        recipe_hash: "0123".into(),
        n_val: 1000,
        lp_top1: Some(lp),
        tcas: Some(0.7),
        pretrain_seconds: Some(10.0),
        status: "ok".into(),
        ..Record::default()
    }
}

fn side(records: Vec<Record>, tcas_se: Option<f64>) -> Side {
    let metrics = records.iter().map(|r| MetricRow {
        tokenizer: r.tokenizer.clone(),
        seed: r.seed,
        metric: "tcas".into(),
        value: r.tcas,
        se: tcas_se,
        n_images: 100,
        ..MetricRow::default()
    });
    Side {
        metrics: metrics.collect(),
        records,
        ..Side::default()
    }
}

fn of<'a>(found: &'a Regression, metric: &str) -> &'a Change {
    found.changes.iter().find(|c| c.metric == metric).unwrap()
}

#[test]
fn a_run_against_itself_is_no_regression() {
    let one = side(vec![record("K", 0, 60.0), record("K", 1, 62.0)], Some(0.01));
    let found = regression(&one, &one, &Gate::default());
    assert!(!found.regressed() && found.differing.is_empty() && found.unknown().is_empty());
    assert!(found.changes.iter().all(|c| c.verdict == Verdict::Same));
    assert!(
        found.markdown().contains("no regression") && found.markdown().contains("No metric moved")
    );
}

#[test]
fn accuracy_of_one_seed_has_a_binomial_error() {
    let old = side(vec![record("K", 0, 60.0)], None);
    // sqrt(2 * 0.24 / 1000) = 2.19 points; two of them are 4.38.
    for (lp, verdict) in [
        (57.0, Verdict::Same),
        (55.0, Verdict::Worse),
        (65.0, Verdict::Better),
    ] {
        let found = regression(
            &old,
            &side(vec![record("K", 0, lp)], None),
            &Gate::default(),
        );
        let change = of(&found, "lp_top1");
        assert_eq!(
            (change.verdict, change.by),
            (verdict, "binomial, unpaired"),
            "{lp}"
        );
        assert_eq!(found.regressed(), verdict == Verdict::Worse);
    }
}

#[test]
fn predictions_pair_the_images() {
    let predicted = |wrong: usize| {
        let right = (0..1000).map(|i| i >= wrong).collect();
        let one = Predicted {
            tokenizer: "K".into(),
            seed: 0,
            right,
        };
        BTreeMap::from([("lp", vec![one])])
    };
    let mut old = side(vec![record("K", 0, 60.0)], None);
    old.predicted = predicted(400);
    let mut new = side(vec![record("K", 0, 58.0)], None);
    new.predicted = predicted(420);
    let found = regression(&old, &new, &Gate::default());
    let change = of(&found, "lp_top1");
    // Twenty images got worse: sd sqrt(0.02 * 0.98 * 1000/999), over sqrt(1000).
    let expected = 100.0 * (0.02 * 0.98 / 999.0_f64).sqrt();
    assert!((change.se.unwrap() - expected).abs() < 1e-12, "{change:?}");
    assert_eq!(
        (change.verdict, change.by),
        (Verdict::Worse, "paired by image")
    );
}

/// A run of seeds with these accuracies on 120 images.
fn seeds(top1: &[f64], top5: &[f64]) -> Side {
    let one = |((seed, top1), top5): ((u64, &f64), &f64)| Record {
        n_val: 120,
        lp_top5: Some(*top5),
        ..record("K", seed, *top1)
    };
    side((0..).zip(top1).zip(top5).map(one).collect(), None)
}

#[test]
fn several_seeds_are_paired_by_seed_with_students_factor() {
    let old = [60.0, 70.0, 60.0, 70.0, 60.0];
    let of = |new: &[f64]| {
        let old = &old[..new.len()];
        let found = regression(&seeds(old, old), &seeds(new, new), &Gate::default());
        of(&found, "lp_top1").clone()
    };
    // Differences -2 and -3: standard error 0.5, times 12.71 / 1.96.
    let two = of(&[58.0, 67.0]);
    assert!((two.se.unwrap() - 0.5 * 12.7062 / 1.959_964).abs() < 1e-9);
    assert_eq!((two.verdict, two.by), (Verdict::Same, "paired by seed"));
    let five = of(&[58.0, 67.0, 57.5, 68.0, 57.5]);
    assert_eq!((five.verdict, five.by), (Verdict::Worse, "paired by seed"));
}

/// One image of 120 in each of two seeds.
#[test]
fn equal_differences_of_few_seeds_have_no_error_of_zero() {
    let top5 = [[77.5, 78.3], [76.7, 77.5]].map(|pair| pair.map(|p: f64| (p * 1.2).round() / 1.2));
    let [old, new] = top5.map(|top5| seeds(&[50.0, 50.0], &top5));
    let found = regression(&old, &new, &Gate::default());
    let change = of(&found, "lp_top5");
    assert_eq!(
        (change.verdict, change.by),
        (Verdict::Same, "binomial, unpaired")
    );
    assert!(!found.regressed());
    // A number that is no accuracy has no such error.
    let loss = |loss: f64| {
        let mut run = seeds(&[50.0, 50.0], &[80.0, 80.0]);
        let records = run.records.iter_mut();
        records.for_each(|r| r.pretrain_loss = Some(loss));
        run
    };
    let found = regression(&loss(1.0), &loss(1.5), &Gate::default());
    assert_eq!(of(&found, "pretrain_loss").verdict, Verdict::Unknown);
}

/// Runs of one seed whose predictions of the key differ on the first `wrong` images.
fn by_image(key: &'static str, wrong: [usize; 2]) -> Change {
    let [old, new] = wrong.map(|wrong| {
        let percent = 100.0 * (120 - wrong) as f64 / 120.0;
        let mut run = seeds(&[percent], &[percent]);
        let one = Predicted {
            tokenizer: "K".into(),
            seed: 0,
            right: (0..120).map(|i| i >= wrong).collect(),
        };
        run.predicted = BTreeMap::from([(key, vec![one])]);
        run
    });
    let metric = if key == "lp" { "lp_top1" } else { key };
    of(&regression(&old, &new, &Gate::default()), metric).clone()
}

#[test]
fn few_images_that_differ_are_no_regression() {
    for (key, wrong, verdict) in [
        ("lp", 4, Verdict::Same),
        ("lp", 6, Verdict::Worse),
        ("lp_top5", 1, Verdict::Same),
        ("lp_top5", 9, Verdict::Worse),
    ] {
        let change = by_image(key, [20, 20 + wrong]);
        let found = (change.verdict, change.by);
        assert_eq!(found, (verdict, "paired by image"), "{key} {wrong}");
    }
}

#[test]
fn declared_directions_count_and_errors_come_from_metrics_csv() {
    let old = side(vec![record("K", 0, 60.0)], Some(0.01));
    let worse = |by: f64| {
        let mut record = record("K", 0, 60.0);
        record.tcas = Some(0.7 + by);
        side(vec![record], Some(0.01))
    };
    assert!(!regression(&old, &worse(0.02), &Gate::default()).regressed());
    assert!(regression(&old, &worse(0.03), &Gate::default()).regressed());
    assert!(!regression(&old, &worse(-0.3), &Gate::default()).regressed());
    let tolerant = Gate {
        tolerances: BTreeMap::from([("tcas".to_owned(), 0.05)]),
        ..Gate::default()
    };
    assert!(!regression(&old, &worse(0.03), &tolerant).regressed());
}

#[test]
fn a_change_without_error_and_tolerance_is_unknown() {
    let old = side(vec![record("K", 0, 60.0)], None);
    let mut changed = record("K", 0, 60.0);
    changed.tcas = Some(0.71);
    let new = side(vec![changed], None);
    let found = regression(&old, &new, &Gate::default());
    assert_eq!(found.unknown().len(), 1);
    assert_eq!(found.verdict(), "cannot tell");
    let gate = Gate {
        tolerance: Some(0.02),
        ..Gate::default()
    };
    assert!(regression(&old, &new, &gate).unknown().is_empty());
}

#[test]
fn seconds_gate_only_when_named() {
    let old = side(vec![record("K", 0, 60.0)], None);
    let mut slow = record("K", 0, 60.0);
    slow.pretrain_seconds = Some(20.0);
    let new = side(vec![slow], None);
    let tolerance = Some(1.0);
    let all = Gate {
        tolerance,
        ..Gate::default()
    };
    let found = regression(&old, &new, &all);
    assert!(!found.regressed());
    assert_eq!(of(&found, "pretrain_seconds").verdict, Verdict::Moved);
    let shown = [false, true].map(|all| found.text(all).contains("pretrain_seconds"));
    assert_eq!(shown, [false, true]);
    let named = Gate {
        tolerance,
        named: vec!["pretrain_seconds".into()],
        ..Gate::default()
    };
    let found = regression(&old, &new, &named);
    assert!(found.regressed() && found.text(false).contains("pretrain_seconds"));
}

#[test]
fn lost_rows_regress_and_other_settings_are_named() {
    let old = side(vec![record("K", 0, 60.0), record("L", 0, 60.0)], None);
    let mut failed = record("K", 0, 60.0);
    failed.status = "failed".into();
    failed.error = "loss is NaN".into();
    let found = regression(&old, &side(vec![failed], None), &Gate::default());
    assert_eq!(
        found.lost,
        ["K, seed 0: failed loss is NaN", "L: is missing"]
    );
    assert!(found.regressed());
    let mut other = record("K", 0, 60.0);
    other.recipe_hash = "4567".into();
    let found = regression(&old, &side(vec![other], None), &Gate::default());
    assert_eq!(found.differing, ["K: recipe_hash was 0123, is 4567"]);
}

/// Two runs with predictions, whose images have these fingerprints.
fn of_images(old: &str, new: &str) -> Regression {
    let run = |fingerprint: &str| {
        let mut record = record("K", 0, 60.0);
        record.dataset_fingerprint = fingerprint.into();
        let one = Predicted {
            tokenizer: "K".into(),
            seed: 0,
            right: (0..1000).map(|i| i >= 400).collect(),
        };
        let mut run = side(vec![record], None);
        run.predicted = BTreeMap::from([("lp", vec![one])]);
        run
    };
    regression(&run(old), &run(new), &Gate::default())
}

#[test]
fn the_name_of_a_folder_of_equal_images_does_not_matter() {
    let run = |dataset: &str, fingerprint: &str| {
        let mut record = record("K", 0, 60.0);
        record.dataset = dataset.into();
        record.dataset_fingerprint = fingerprint.into();
        side(vec![record], None)
    };
    let differing = |fingerprint: &str| {
        let (old, new) = (run("photos", fingerprint), run("copy", fingerprint));
        regression(&old, &new, &Gate::default()).differing
    };
    assert!(differing("aa").is_empty());
    // Older files do not state their images.
    assert_eq!(differing(""), ["K: dataset was photos, is copy"]);
}

#[test]
fn other_images_are_named_and_never_paired() {
    let found = of_images("aa", "bb");
    assert_eq!(found.differing, ["K: dataset_fingerprint was aa, is bb"]);
    assert_eq!(of(&found, "lp_top1").by, "binomial, unpaired");
    assert!(
        found.json()["differing"][0]
            .as_str()
            .unwrap()
            .contains("bb")
    );
    // An older file does not know its images. They are not refused, and not paired either.
    for (old, new) in [("", "bb"), ("aa", "")] {
        let found = of_images(old, new);
        assert!(found.differing.is_empty());
        assert!(found.text(false).contains("unknown (an older file)"));
        assert_eq!(of(&found, "lp_top1").by, "binomial, unpaired");
    }
    for fingerprint in ["", "aa"] {
        let found = of_images(fingerprint, fingerprint);
        assert!(found.differing.is_empty() && found.otherwise.is_empty());
        assert_eq!(of(&found, "lp_top1").by, "paired by image");
    }
}

#[test]
fn other_codebooks_engines_and_precisions_are_named() {
    let run = |size, epochs, t, engine: &str, dtype: &str| {
        let record = Record {
            codebook_size: size,
            kmeans_epochs: epochs,
            tcas_sharp_t: t,
            engine: engine.into(),
            dtype: dtype.into(),
            encoder_checkpoint: engine.into(),
            ..record("K", 0, 60.0)
        };
        side(vec![record], None)
    };
    let old = run(Some(20), Some(3), Some(0.5), "rten 0.27", "f32");
    let new = run(Some(40), Some(4), Some(0.25), "ort 1.23", "bf16");
    let found = regression(&old, &new, &Gate::default());
    let expected = [
        "K: codebook_size was 20, is 40",
        "K: kmeans_epochs was 3, is 4",
        "K: tcas_sharp_t was 0.5, is 0.25",
    ];
    assert_eq!(found.differing, expected);
    let expected = [
        "K: engine was rten 0.27, is ort 1.23",
        "K: dtype was f32, is bf16",
        "K: encoder_checkpoint was rten 0.27, is ort 1.23",
    ];
    assert_eq!(found.otherwise, expected);
    assert!(found.text(false).contains("computed otherwise: K: engine"));
    // A record without a result has none of them.
    let found = regression(&old, &run(None, None, None, "", ""), &Gate::default());
    assert!(found.differing.is_empty() && found.otherwise.is_empty());
}

#[test]
fn a_scale_that_only_one_run_states_is_no_difference() {
    let run = |taken: &str| {
        let record = Record {
            encoder_checkpoint: taken.into(),
            features_checkpoint: taken.into(),
            ..record("K", 0, 60.0)
        };
        side(vec![record], None)
    };
    let new = run("c.pth, no prefix, images scaled by imagenet");
    let found = |old: &str| regression(&run(old), &new, &Gate::default()).otherwise;
    assert!(found("c.pth, no prefix").is_empty());
    for other in [
        "d.pth, no prefix",
        "c.pth, no prefix, images scaled by dvae",
    ] {
        assert_eq!(found(other).len(), 2, "{other}");
    }
}

#[test]
fn missing_numbers_and_unfinished_runs_are_reported() {
    let seeds = |all: &[u64]| side(all.iter().map(|s| record("K", *s, 60.0)).collect(), None);
    let fewer = regression(&seeds(&[0, 1]), &seeds(&[0]), &Gate::default());
    assert_eq!(fewer.lost, ["K, seed 1: is missing"]);
    assert!(fewer.regressed());
    // The accuracy is missing: a run that only scored.
    let mut scored = record("K", 0, 60.0);
    scored.lp_top1 = None;
    let found = regression(&seeds(&[0]), &side(vec![scored], None), &Gate::default());
    assert_eq!(found.lost, ["K, seed 0: has no lp_top1 any more"]);
    // The old run had not finished.
    let mut pending = record("K", 0, 60.0);
    pending.status = "pending".into();
    let found = regression(&side(vec![pending], None), &seeds(&[0]), &Gate::default());
    assert_eq!(found.unfinished, ["K, seed 0: pending in the old run"]);
    assert_eq!((found.regressed(), found.verdict()), (false, "cannot tell"));
}

/// A row with a codebook of these fit seeds.
fn fitted(seeds: &str, tcas: f64, lp: f64) -> Side {
    let mut record = record("K", 0, lp);
    record.fit_seeds = seeds.into();
    record.tcas = Some(tcas);
    side(vec![record], Some(0.0001))
}

#[test]
fn a_change_that_counts_does_not_print_as_zero() {
    let old = side(vec![record("K", 0, 60.0)], Some(1e-7));
    let changed = |by: f64| {
        let mut record = record("K", 0, 60.0);
        record.tcas = Some(0.7 + by);
        regression(&old, &side(vec![record], Some(1e-7)), &Gate::default())
    };
    let text = changed(0.000_012).text(false);
    assert!(
        text.contains("+0.000012") && text.contains("WORSE"),
        "{text}"
    );
    assert!(!text.contains("+0.0000 "), "{text}");
    // Rounding of a sum is no change.
    let same = regression(
        &side(vec![record("K", 0, 60.0)], Some(0.0)),
        &side(
            vec![Record {
                tcas: Some(0.7 + 1e-16),
                ..record("K", 0, 60.0)
            }],
            Some(0.0),
        ),
        &Gate::default(),
    );
    assert_eq!(of(&same, "tcas").verdict, Verdict::Same);
}
