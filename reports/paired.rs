//! Paired comparison of two tokenizers on the same validation images.
//!
//! For each seed, McNemar's exact test compares the images that only one of the two gets right. Over all seeds, a bootstrap over
//! images of the mean difference shows how much the result depends on *these images*; it does not cover further seeds. Holm's
//! method corrects the p-values of a table's rows.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

use crate::columns::Comparison;

/// Number of resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// The validation images that one model classifies correctly.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// The row.
    pub tokenizer: String,
    /// The seed.
    pub seed: u64,
    /// One value per validation image, in scan order.
    pub right: Vec<bool>,
}

/// Level of significance.
pub const SIGNIFICANT: f64 = 0.05;

/// Returns the p-value of a row after Holm's correction: the bootstrap's for several seeds, otherwise McNemar's.
pub fn p_of(all: &[Comparison], evaluation: &str, tokenizer: &str) -> Option<f64> {
    let of_row = |c: &&Comparison| c.evaluation == evaluation && c.tokenizer == tokenizer;
    let over = all.iter().filter(of_row).find(|c| c.seed.is_none())?;
    if over.seeds > 1 {
        return Some(over.p_holm);
    }
    let one = all.iter().filter(of_row).find(|c| c.seed.is_some())?;
    Some(one.p_holm)
}

/// Returns whether the comparison of a row is over several seeds.
pub fn has_seeds(all: &[Comparison], evaluation: &str, tokenizer: &str) -> bool {
    let mut of_row =
        (all.iter()).filter(|c| c.evaluation == evaluation && c.tokenizer == tokenizer);
    of_row.any(|c| c.seed.is_none() && c.seeds > 1)
}

/// Compares every row with `baseline`: for each seed, and over the seeds that both have.
pub fn compare(evaluation: &str, predicted: &[Predicted], baseline: &str) -> Vec<Comparison> {
    let mut rows: BTreeMap<&str, Vec<(&Predicted, &Predicted)>> = BTreeMap::new();
    let mut order = Vec::new();
    for one in predicted.iter().filter(|p| p.tokenizer != baseline) {
        let base = predicted
            .iter()
            .find(|p| p.tokenizer == baseline && p.seed == one.seed);
        if let Some(base) = base.filter(|base| base.right.len() == one.right.len()) {
            if !rows.contains_key(one.tokenizer.as_str()) {
                order.push(one.tokenizer.as_str());
            }
            rows.entry(&one.tokenizer).or_default().push((one, base));
        }
    }
    let about = |pair: &(&Predicted, &Predicted), seeds| Comparison {
        evaluation: evaluation.to_owned(),
        tokenizer: pair.0.tokenizer.clone(),
        baseline: baseline.to_owned(),
        seed: None,
        seeds,
        n_val: pair.0.right.len(),
        difference: 0.0,
        ci_low: None,
        ci_high: None,
        only_tokenizer: None,
        only_baseline: None,
        test: String::new(),
        p: 1.0,
        p_holm: 1.0,
    };
    let mut all = Vec::new();
    for name in order {
        let pairs = &rows[name];
        all.push(over_seeds(pairs, about(&pairs[0], pairs.len())));
        all.extend(pairs.iter().map(|pair| one_seed(pair, about(pair, 1))));
    }
    correct(&mut all);
    all
}

fn one_seed((one, base): &(&Predicted, &Predicted), about: Comparison) -> Comparison {
    let only = |a: &Predicted, b: &Predicted| {
        let pairs = a.right.iter().zip(&b.right);
        pairs.filter(|(a, b)| **a && !**b).count()
    };
    let (ours, theirs) = (only(one, base), only(base, one));
    Comparison {
        seed: Some(one.seed),
        difference: 100.0 * (ours as f64 - theirs as f64) / about.n_val.max(1) as f64,
        only_tokenizer: Some(ours),
        only_baseline: Some(theirs),
        test: "mcnemar".into(),
        p: mcnemar(ours, theirs),
        ..about
    }
}

fn over_seeds(pairs: &[(&Predicted, &Predicted)], about: Comparison) -> Comparison {
    let seeds = pairs.len() as i64;
    // For each image: the number of seeds on which the row is right, minus the baseline's.
    let mut counts = vec![0_u64; 2 * pairs.len() + 1];
    for image in 0..about.n_val {
        let sum: i64 = pairs
            .iter()
            .map(|(one, base)| i64::from(one.right[image]) - i64::from(base.right[image]))
            .sum();
        counts[(sum + seeds) as usize] += 1;
    }
    let found = bootstrap(&counts, 0);
    Comparison {
        difference: 100.0 * found.mean,
        ci_low: Some(100.0 * found.low),
        ci_high: Some(100.0 * found.high),
        test: "bootstrap".into(),
        p: found.p,
        ..about
    }
}

/// Holm's correction within each evaluation and seed.
fn correct(all: &mut [Comparison]) {
    let mut families: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
    for (at, comparison) in all.iter().enumerate() {
        families.entry(comparison.seed).or_default().push(at);
    }
    for family in families.values() {
        let p: Vec<f64> = family.iter().map(|at| all[*at].p).collect();
        for (at, p) in family.iter().zip(holm(&p)) {
            all[*at].p_holm = p;
        }
    }
}

/// Returns McNemar's exact two-sided p. `a` and `b` are the numbers of images that only one of the models classifies correctly.
pub fn mcnemar(a: usize, b: usize) -> f64 {
    let n = a + b;
    // log(C(n, k) / 2^n), from k = 0.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log.exp();
    for k in 0..a.min(b) {
        log += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
        tail += log.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Applies Holm's step-down correction to p-values, in the same order.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, at) in order.into_iter().enumerate() {
        largest = largest.max((p[at] * (p.len() - rank) as f64).min(1.0));
        corrected[at] = largest;
    }
    corrected
}

/// Mean, 95 % interval, and two-sided p of a bootstrap for a mean of zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Mean over the images.
    pub mean: f64,
    /// 2.5th percentile of the resampled means.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
    /// `2 min(P(mean <= 0), P(mean >= 0))`, at least `2 / (resamples + 1)`.
    pub p: f64,
}

/// Bootstraps the mean over images. `counts[i]` images have the value `(i - s) / s`, with `s = counts.len() / 2`. A resample is a
/// multinomial draw of the counts, so its cost does not depend on the number of images.
pub fn bootstrap(counts: &[u64], seed: u64) -> Bootstrap {
    let seeds = (counts.len() / 2).max(1) as f64;
    let n: u64 = counts.iter().sum();
    let mean = |counts: &[u64]| {
        let sum = counts.iter().enumerate();
        let sum: f64 = sum.map(|(i, c)| (i as f64 - seeds) * *c as f64).sum();
        sum / seeds / n.max(1) as f64
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| mean(&multinomial(counts, n, &mut rng)))
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |part: f64| means[((RESAMPLES - 1) as f64 * part).round() as usize];
    let below = means.iter().filter(|m| **m <= 0.0).count();
    let above = means.iter().filter(|m| **m >= 0.0).count();
    let p = 2.0 * (below.min(above) + 1) as f64 / (RESAMPLES + 1) as f64;
    Bootstrap {
        mean: mean(counts),
        low: at(0.025),
        high: at(0.975),
        p: p.min(1.0),
    }
}

/// Draws `n` times from a multinomial with probabilities `counts / n`, by a binomial draw per category from the remaining draws.
fn multinomial(counts: &[u64], n: u64, rng: &mut ChaCha8Rng) -> Vec<u64> {
    let (mut draws, mut rest) = (n, n);
    let mut out = Vec::with_capacity(counts.len());
    for count in counts {
        let share = if rest == 0 {
            0.0
        } else {
            *count as f64 / rest as f64
        };
        let drawn = Binomial::new(draws, share.min(1.0)).map_or(0, |binomial| binomial.sample(rng));
        out.push(drawn);
        draws -= drawn;
        rest -= count;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/fixtures/statistics/make.py`.
    fn fixture() -> serde_json::Value {
        serde_json::from_str(include_str!("../tests/fixtures/statistics/scipy.json")).unwrap()
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
    fn the_bootstrap_agrees_with_brute_force() {
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
            assert!((found.p - expected("p")).abs() < 0.02, "{found:?}");
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
            ("good", None, "bootstrap"),
            ("good", Some(0), "mcnemar"),
            ("good", Some(1), "mcnemar"),
            ("same", None, "bootstrap"),
            ("same", Some(0), "mcnemar"),
        ]
        .map(|(name, seed, test)| (name.to_owned(), seed, test.to_owned()));
        assert_eq!(found.iter().map(about).collect::<Vec<_>>(), expected);
        // The differences are 75 and 25 points.
        assert!((found[0].difference - 50.0).abs() < 1e-9 && found[0].seeds == 2);
        assert!(found[0].ci_low.unwrap() > 40.0 && found[0].p_holm < 0.001);
        assert_eq!(
            (found[1].only_tokenizer, found[1].only_baseline),
            (Some(150), Some(0))
        );
        assert_eq!(
            (found[4].difference, found[4].p, found[4].p_holm),
            (0.0, 1.0, 1.0)
        );
    }
}
