//! Marks of the bag of tokens, whose number is the same for every seed.

use super::*;

/// The first table of two rows, whose codebooks are fitted with these seeds, and a significant difference.
fn table(seeds: u64, fits: [&'static str; 2]) -> String {
    let rows = [("A", 20.0, fits[0]), ("K", 60.0, fits[1])];
    let of_row = |(name, bag, fit_seeds): (&'static str, f64, &'static str)| {
        (0..seeds).map(move |seed| Record {
            lp_top1: None,
            ft_top1: None,
            bag_top1: Some(bag),
            fit_seeds: fit_seeds.into(),
            ..record(name, "kmeans", seed, 0.0)
        })
    };
    let records = Vec::from_iter(rows.into_iter().flat_map(of_row));
    let cx = TableContext {
        baseline: Some("A".into()),
        comparisons: vec![Comparison {
            evaluation: "bag".into(),
            tokenizer: "K".into(),
            baseline: "A".into(),
            seeds: seeds as usize,
            p_holm: 0.01,
            ..Comparison::default()
        }],
        ..TableContext::default()
    };
    render(1, &records, &cx).unwrap().markdown
}

/// Three copies of one number had a star, one had none, and the codebook's fit was left out.
#[test]
fn a_bag_of_tokens_has_a_mark_only_if_no_codebook_is_fitted() {
    let cases = [(["", ""], true), (["0", ""], false), (["", "0 1 2"], false)];
    for (seeds, (fits, marked)) in [1, 3].into_iter().flat_map(|n| cases.map(|case| (n, case))) {
        let found = table(seeds, fits);
        assert_eq!(found.contains("+40.0*"), marked, "{seeds}: {found}");
        assert!(found.contains("has marks only between rows without a fitted or drawn codebook"));
        for of_encoder in ["mean difference over", "Differences of one seed"] {
            assert!(!found.contains(of_encoder), "{found}");
        }
    }
}
