//! Means and their errors are over the same seeds and over each run's own images.

use super::*;

/// A run of two seeds with these accuracies on 120 images, with the predictions of some seeds.
fn predicted(top1: [f64; 2], kept: &[u64]) -> Side {
    let mut run = seeds(&top1, &top1);
    let one = |seed: &u64| Predicted {
        tokenizer: "K".into(),
        seed: *seed,
        right: (0..120)
            .map(|i| i < (1.2 * top1[*seed as usize]).round() as usize)
            .collect(),
    };
    run.predicted = BTreeMap::from([("lp", kept.iter().map(one).collect())]);
    run
}

#[test]
fn images_are_paired_only_if_every_seed_of_the_means_has_predictions() {
    let was = [50.0, 60.0];
    let by_of = |is, old: &[u64], new: &[u64]| {
        let found = regression(&predicted(was, old), &predicted(is, new), &Gate::default());
        let change = of(&found, "lp_top1");
        assert_eq!((change.old, change.new), (55.0, 50.0));
        (change.by, change.verdict)
    };
    let both = &[0, 1][..];
    assert_eq!(
        by_of([45.0, 55.0], both, both),
        ("paired by image", Verdict::Worse)
    );
    // One seed lost 10 points, the other none: another training is no regression.
    let by = |old: &[u64], new: &[u64]| by_of([40.0, 60.0], old, new);
    assert_eq!(by(both, both), ("paired by image and seed", Verdict::Same));
    // The error of seed 1 alone would be 0, that of seed 0 alone belongs to a difference of 10.
    for kept in [&[0][..], &[1], &[]] {
        assert_eq!(by(&[0, 1], kept), ("paired by seed", Verdict::Same));
        assert_eq!(by(kept, &[1, 0]), ("paired by seed", Verdict::Same));
    }
}

#[test]
fn each_run_has_the_binomial_error_of_its_own_images() {
    let run = |lp: f64, n_val: usize| {
        let mut one = record("K", 0, lp);
        one.n_val = n_val;
        side(vec![one], None)
    };
    let (many, few) = (run(80.0, 10_000), run(75.0, 100));
    // With two right images and two wrong ones more.
    let variance =
        |right: f64, wrong: f64, images: f64| right * wrong / (images + 4.0) / images.powi(2);
    let expected =
        100.0 * (variance(8002.0, 2002.0, 10_000.0) + variance(77.0, 27.0, 100.0)).sqrt();
    for (old, new) in [(&many, &few), (&few, &many)] {
        let found = regression(old, new, &Gate::default());
        let change = of(&found, "lp_top1");
        assert!((change.se.unwrap() - expected).abs() < 1e-12, "{change:?}");
        assert_eq!(change.verdict, Verdict::Same);
    }
}

/// Three seeds that agree said nothing of other images, so that five images of a hundred were a regression. Two images had no error.
#[test]
fn other_images_have_the_binomial_error_too() {
    let run = |images: &str, n_val: usize, top1: &[f64]| {
        let mut run = seeds(top1, top1);
        for record in &mut run.records {
            record.n_val = n_val;
            record.dataset_fingerprint = images.into();
        }
        run
    };
    let found = |old: &Side, new: &Side| {
        let found = regression(old, new, &Gate::default());
        let change = of(&found, "lp_top1");
        (change.by, change.verdict, change.se.unwrap())
    };
    let old = run("aa", 100, &[60.0, 61.0, 60.0]);
    let below = [55.0, 56.0, 54.0];
    let (by, verdict, by_seed) = found(&old, &run("aa", 100, &below));
    assert_eq!((by, verdict), ("paired by seed", Verdict::Worse));
    let (.., binomial) = found(&run("", 100, &[60.0]), &run("", 100, &[55.0]));
    for images in ["bb", ""] {
        let (by, verdict, se) = found(&old, &run(images, 100, &below));
        assert_eq!((by, verdict), ("by seed, and binomial", Verdict::Same));
        assert!((se / by_seed.hypot(binomial) - 1.0).abs() < 1e-3, "{se}");
    }
    // Fisher's exact p of all against none: 1/3, 1/10 and 1/35.
    for (n_val, verdict) in [(2, Verdict::Same), (3, Verdict::Same), (4, Verdict::Worse)] {
        let ends = [100.0, 0.0].map(|top1| run("aa", n_val, &[top1]));
        assert_eq!(found(&ends[0], &ends[1]).1, verdict, "{n_val}");
    }
}

/// Five images that differ have p = 1/16 and an error of half of the difference: rounding said that some are a regression.
#[test]
fn rounding_decides_no_verdict() {
    let n = 3925;
    let percent = |right: u32| 100.0 * f64::from(right) / f64::from(n);
    let run = |right: u32| {
        let mut run = seeds(&[percent(right)], &[percent(right)]);
        run.records[0].n_val = n as usize;
        let right = (0..n).map(|image| image < right).collect();
        let (tokenizer, seed) = ("K".into(), 0);
        let one = Predicted {
            tokenizer,
            seed,
            right,
        };
        run.predicted = BTreeMap::from([("lp", vec![one])]);
        run
    };
    let se = of(
        &regression(&run(1863), &run(1858), &Gate::default()),
        "lp_top1",
    )
    .se;
    let lost = |right: u32, images: u32, se, tolerance| {
        let pair = (percent(right), percent(right - images));
        verdict(Better::Higher, false, pair, se, tolerance)
    };
    let tolerance = Some(percent(39));
    for right in 5..=n {
        assert_eq!(lost(right, 5, se, None), Verdict::Same, "{right}");
    }
    for right in 40..=n {
        assert_eq!(lost(right, 39, None, tolerance), Verdict::Same, "{right}");
        assert_eq!(lost(right, 40, None, tolerance), Verdict::Worse, "{right}");
    }
}

#[test]
fn rows_and_seeds_that_only_the_new_run_has_are_named() {
    let old = side(vec![record("K", 0, 60.0)], None);
    let further = [("K", 0), ("K", 1), ("K", 2), ("L", 0)];
    let further = further.map(|(name, seed)| record(name, seed, 60.0));
    let found = regression(&old, &side(further.to_vec(), None), &Gate::default());
    let added = [
        "K, seed 1, 2: only in the new run",
        "L: is only in the new run",
    ];
    assert_eq!(found.added, added);
    for line in added {
        let line = format!("not compared: {line}");
        assert!(found.text(false).contains(&line) && found.markdown().contains(&line));
    }
    assert_eq!(found.json()["not_compared"], serde_json::json!(added));
    assert_eq!(found.verdict(), "no regression");
}

#[test]
fn runs_that_are_refused_have_no_verdict() {
    let mut other = record("K", 0, 10.0);
    other.recipe_hash = "4567".into();
    let old = side(vec![record("K", 0, 60.0)], None);
    let mut found = regression(&old, &side(vec![other], None), &Gate::default());
    assert_eq!(found.verdict(), "regression");
    found.refused = true;
    assert!(!found.regressed() && found.verdict() == "cannot tell");
    let markdown = found.markdown();
    assert!(
        markdown.starts_with("### bench compare: cannot tell\n")
            && markdown.contains("recipe_hash was 0123, is 4567")
            && markdown.contains("Nothing is judged")
            && !markdown.contains("WORSE"),
        "{markdown}"
    );
}
