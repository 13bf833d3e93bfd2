//! Codebooks of other fit seeds.

use super::*;

/// Older runs have no fit seeds of a random codebook: it was drawn as fit seed 0 draws it.
#[test]
fn other_seeds_of_a_random_codebook_are_named_and_never_worse() {
    let drawn = |fits: &str, seed: &str, tcas| {
        let mut side = fitted(fits, tcas, 60.0);
        side.records[0].kind = "random-projection".into();
        side.records[0].fields = format!("{{\"codebook_size\": 8{seed}}}");
        side
    };
    let found = |old: &Side, new: &Side| regression(old, new, &Gate::default());
    let old = drawn("", "", 0.7);
    let own = "K: with.seed was 0, is 4";
    for (fits, seed, named) in [
        ("0", ", \"seed\": 4", own),
        ("", ", \"seed\": 4", own),
        ("0 1 2", "", "K: fit_seeds was 0, is 0 1 2"),
    ] {
        let other = found(&old, &drawn(fits, seed, 0.71));
        assert_eq!(other.differing, [named]);
        assert_eq!(of(&other, "tcas").verdict, Verdict::OtherFit);
    }
    for same in [drawn("", ", \"seed\": 0", 0.71), drawn("0", "", 0.71)] {
        assert_eq!(of(&found(&old, &same), "tcas").verdict, Verdict::Worse);
    }
}

/// A run folder of an older version without its suite.
#[test]
fn fit_seeds_that_only_one_run_knows_are_named() {
    let found = |old: &str, new: &str| {
        let (old, new) = (fitted(old, 0.7, 60.0), fitted(new, 0.7, 60.0));
        regression(&old, &new, &Gate::default()).otherwise
    };
    let unknown = "unknown (an older file)";
    assert_eq!(
        found("", "0 1 2"),
        [format!("K: fit_seeds was {unknown}, is 0 1 2")]
    );
    assert_eq!(
        found("0", ""),
        [format!("K: fit_seeds was 0, is {unknown}")]
    );
    assert!(found("", "").is_empty());
}

#[test]
fn other_fit_seeds_are_named_and_never_worse() {
    let (old, new) = (fitted("0", 0.7, 60.0), fitted("1", 0.71, 50.0));
    let found = regression(&old, &new, &Gate::default());
    assert_eq!(found.differing, ["K: fit_seeds was 0, is 1"]);
    for metric in ["tcas", "lp_top1"] {
        let change = of(&found, metric);
        assert_eq!(change.verdict, Verdict::OtherFit);
    }
    assert!(!found.regressed() && !found.compared());
    assert_eq!(
        (found.other_fits(), found.verdict()),
        (vec!["K"], "cannot tell")
    );
    let text = found.text(false);
    assert!(
        text.contains("not comparable: seeds of codebooks differ") && !text.contains("WORSE"),
        "{text}"
    );
    // Equal seeds, and a side that does not tell, are judged; the source of the error says that it is of one fit.
    for seeds in ["0", ""] {
        let found = regression(&old, &fitted(seeds, 0.71, 60.0), &Gate::default());
        assert_eq!(of(&found, "tcas").verdict, Verdict::Worse);
        assert!(found.differing.is_empty());
    }
    let found = regression(&old, &fitted("0", 0.71, 60.0), &Gate::default());
    assert_eq!(of(&found, "tcas").by, "bootstrap of each, one fit");
}

#[test]
fn errors_over_fits_allow_a_comparison_of_other_fit_seeds() {
    let (old, new) = (fitted("0 1 2", 0.7, 60.0), fitted("3 4 5", 0.71, 50.0));
    let found = regression(&old, &new, &Gate::default());
    let tcas = of(&found, "tcas");
    assert_eq!(
        (tcas.verdict, tcas.by),
        (Verdict::Worse, "images and fits of each")
    );
    // Pretraining used another codebook.
    assert_eq!(of(&found, "lp_top1").verdict, Verdict::OtherFit);
}
