use super::*;

/// `tests/fixtures/statistics/make.py`.
fn fixture() -> serde_json::Value {
    serde_json::from_str(include_str!("../../tests/fixtures/statistics/scipy.json")).unwrap()
}

#[test]
fn mcnemar_equals_scipy() {
    for case in fixture()["mcnemar"].as_array().unwrap() {
        let [a, b] = [0, 1].map(|i| case[i].as_u64().unwrap() as usize);
        let (found, expected) = (mcnemar(a, b), case[2].as_f64().unwrap());
        assert!(
            (found - expected).abs() <= 1e-9 * expected,
            "{a} {b}: {found} {expected}"
        );
    }
}

#[test]
fn bootstrap_and_sign_flip_test_of_many_images_equal_numpys() {
    for case in fixture()["bootstrap"].as_array().unwrap() {
        let counts = case["counts"].as_array().unwrap();
        let counts: Vec<u64> = counts.iter().map(|c| c.as_u64().unwrap()).collect();
        let found = bootstrap(&counts, 0);
        let expected = |name: &str| case[name].as_f64().unwrap();
        let width = expected("high") - expected("low");
        assert!((found.mean - expected("mean")).abs() < 1e-12);
        // Two bootstraps of the same data differ by their own sampling.
        for (f, name) in [(found.low, "low"), (found.high, "high")] {
            assert!((f - expected(name)).abs() < 0.04 * width, "{name}: {f}");
        }
        let each = (-3..=3).zip(&counts);
        let differences: Vec<i64> = each
            .flat_map(|(d, count)| vec![d; *count as usize])
            .collect();
        let p = sign_flip(&differences);
        assert!((p - expected("p")).abs() < 1e-12, "{p}");
    }
}

#[test]
fn holm_equals_the_textbook() {
    let found = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (f, e) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((f - e).abs() < 1e-12, "{found:?}");
    }
}

#[test]
fn rows_are_compared_per_seed_and_over_seeds() {
    let predicted = |name: &str, seed: u64, every: usize| Predicted {
        tokenizer: name.into(),
        seed,
        right: (0..200).map(|i| i % every == 0).collect(),
    };
    let all = [
        predicted("base", 0, 4),
        predicted("base", 1, 4),
        predicted("good", 0, 1),
        predicted("good", 1, 2),
        predicted("same", 0, 4),
        predicted("alone", 7, 1),
    ];
    let found = compare("lp", &all, "base");
    let about = |c: &Comparison| (c.tokenizer.clone(), c.seed, c.test.clone());
    let expected = [
        ("good", None, "sign-flip and t"),
        ("good", Some(0), "mcnemar"),
        ("good", Some(1), "mcnemar"),
        ("same", None, "sign-flip"),
        ("same", Some(0), "mcnemar"),
    ]
    .map(|(name, seed, test)| (name.to_owned(), seed, test.to_owned()));
    assert_eq!(found.iter().map(about).collect::<Vec<_>>(), expected);
    // The differences are 75 and 25 points.
    assert!((found[0].difference - 50.0).abs() < 1e-9 && found[0].seeds == 2);
    // Many images, but two seeds that differ by as much as the mean: t = 50 / 25 or so with three degrees of freedom of three rows.
    assert!(found[0].p > 0.1 && !found[0].is_significant());
    assert!(found[0].ci_low.unwrap() < -20.0 && found[0].ci_high.unwrap() > 120.0);
    let certain = compare("lp", &[all[0].clone(), all[2].clone()], "base");
    assert!(certain[0].ci_low.unwrap() > 65.0 && certain[0].p_holm < 0.001);
    assert_eq!(
        (found[1].only_tokenizer, found[1].only_baseline),
        (Some(150), Some(0))
    );
    assert_eq!(
        (found[4].difference, found[4].p, found[4].p_holm),
        (0.0, 1.0, 1.0)
    );
}

/// Differences of +20 and -6 points had a star, and "the gap would be 4.6 to 9.4 points".
#[test]
fn seeds_that_differ_are_no_certain_difference() {
    let predicted = |name: &str, seed: u64, right: usize| Predicted {
        tokenizer: name.into(),
        seed,
        right: (0..1000).map(|i| i < right).collect(),
    };
    let rows = |differences: &[i64]| {
        let seeds = differences.iter().zip(0..);
        let each = seeds.flat_map(|(difference, seed)| {
            let row = predicted("row", seed, (400 + difference) as usize);
            [row, predicted("base", seed, 400)]
        });
        compare("ft", &each.collect::<Vec<_>>(), "base").remove(0)
    };
    let apart = rows(&[200, -60]);
    assert!((apart.difference - 7.0).abs() < 1e-9 && apart.test == "sign-flip and t");
    // t = 0.54 with two degrees of freedom, and b of 13 points over the seeds.
    assert!(apart.p > 0.6 && apart.ci_low.unwrap() < -45.0, "{apart:?}");
    let near = rows(&[190, 200, 210]);
    assert!(
        near.is_significant() && near.ci_low.unwrap() > 15.0,
        "{near:?}"
    );
    // Student's quantile with four degrees of freedom is 2.7764; b is that of the pair, 1 / sqrt(3) points, and a that of 200 images.
    let (a, b) = (
        100.0 * (0.2 * 0.8 / 1000.0_f64).sqrt(),
        1.0 / 3.0_f64.sqrt(),
    );
    let half = near.ci_high.unwrap() - near.difference;
    assert!(
        (half / (1.96 * a).hypot(2.7764 * b) - 1.0).abs() < 0.02,
        "{half}"
    );
    let equal = rows(&[200, 200]);
    assert!(equal.is_significant() && equal.test == "sign-flip");
}

/// 120 images and one seed; the first images differ so.
fn differing(first: &[(bool, bool)]) -> Comparison {
    let predicted = |name: &str, of: fn(&(bool, bool)) -> bool| Predicted {
        tokenizer: name.into(),
        seed: 0,
        right: (0..120)
            .map(|i| first.get(i).map_or(i % 3 == 0, of))
            .collect(),
    };
    let all = [
        predicted("row", |pair| pair.0),
        predicted("base", |pair| pair.1),
    ];
    compare("knn", &all, "base").remove(0)
}

#[test]
fn few_differing_images_are_not_significant_and_have_no_interval() {
    let four = differing(&[(false, true); 4]);
    assert!((four.p - 0.125).abs() < 1e-12 && !four.is_significant());
    assert_eq!(
        (four.ci_low, four.ci_high, four.differing()),
        (None, None, Some(4))
    );
    let none = differing(&[]);
    assert_eq!((none.difference, none.p, none.ci_high), (0.0, 1.0, None));
}

#[test]
fn an_interval_excludes_zero_only_if_the_test_does() {
    for (ours, theirs) in [(10, 0), (9, 2), (8, 3), (10, 3), (30, 15), (26, 14)] {
        let mut first = vec![(true, false); ours];
        first.extend(vec![(false, true); theirs]);
        let found = differing(&first);
        assert!((found.p - mcnemar(ours, theirs)).abs() < 1e-12);
        let (low, high) = (found.ci_low.unwrap(), found.ci_high.unwrap());
        assert!(high > 0.0, "{found:?}");
        assert!(low <= 0.0 || found.p < SIGNIFICANT, "{found:?}");
        assert_eq!(found.is_significant(), found.p < SIGNIFICANT && low > 0.0);
    }
}
