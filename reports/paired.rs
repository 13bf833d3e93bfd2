//! Paired comparison of two tokenizers on the same validation images.
//!
//! For each seed, McNemar's exact test compares the images that only one of the two gets right. Over all seeds, the sign-flip test is
//! its generalisation, and a bootstrap over images of the mean difference gives its interval, if enough images differ. Both show how
//! much the result depends on *these images*. If the difference varies between seeds, p is at least that of a test over images and
//! seeds ([`WholeError`]), and the interval contains that of the test. Holm's method corrects the p-values of a table's rows.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

use crate::columns::Comparison;
use crate::seeds::{WholeError, standard_error};
use crate::signs::{p_of_sizes, sign_flip};

/// Number of resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// Images that must differ for an interval: of fewer, resamples show too little of what other images would do.
const ENOUGH: usize = 10;

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

/// Name of the test of a difference that varies between seeds.
const BOTH: &str = "sign-flip and t";

/// Level of significance.
pub const SIGNIFICANT: f64 = 0.05;

/// Returns the comparison of a row over all seeds.
pub fn over<'a>(
    all: &'a [Comparison],
    evaluation: &str,
    tokenizer: &str,
) -> Option<&'a Comparison> {
    let mut over = all.iter().filter(|c| c.seed.is_none());
    over.find(|c| c.evaluation == evaluation && c.tokenizer == tokenizer)
}

impl Comparison {
    /// Returns whether the difference is significant: by its p-value after Holm's correction, and by its interval, if it has one.
    pub fn is_significant(&self) -> bool {
        let ends = self.ci_low.zip(self.ci_high);
        self.p_holm < SIGNIFICANT && ends.is_none_or(|(low, high)| low > 0.0 || high < 0.0)
    }

    /// Returns whether its tests count how much the difference varies between seeds.
    pub fn covers_seeds(&self) -> bool {
        self.test == BOTH
    }

    /// Returns the number of images on which the two differ.
    pub fn differing(&self) -> Option<usize> {
        Some(self.only_tokenizer? + self.only_baseline?)
    }
}

/// Compares every row with `baseline`: for each seed, and over the seeds that both have.
pub fn compare(evaluation: &str, predicted: &[Predicted], baseline: &str) -> Vec<Comparison> {
    let mut rows: Vec<(&str, Vec<(&Predicted, &Predicted)>)> = Vec::new();
    for pair in pairs(predicted, baseline) {
        let name = pair.0.tokenizer.as_str();
        match rows.iter_mut().find(|(row, _)| *row == name) {
            Some((_, pairs)) => pairs.push(pair),
            None => rows.push((name, vec![pair])),
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
    for (_, pairs) in &rows {
        all.push(over_seeds(pairs, about(&pairs[0], pairs.len())));
        all.extend(pairs.iter().map(|pair| one_seed(pair, about(pair, 1))));
    }
    correct(&mut all);
    all
}

/// Returns the predictions of rows and of `baseline` that are of one seed and of the same images.
fn pairs<'a>(predicted: &'a [Predicted], baseline: &str) -> Vec<(&'a Predicted, &'a Predicted)> {
    let of = |one: &'a Predicted| {
        let is_base = |p: &&Predicted| p.tokenizer == baseline && p.seed == one.seed;
        let base = predicted.iter().find(is_base)?;
        (base.right.len() == one.right.len()).then_some((one, base))
    };
    let others = predicted.iter().filter(|p| p.tokenizer != baseline);
    others.filter_map(of).collect()
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
    let differences = differences(pairs);
    let mut counts = vec![0_u64; 2 * pairs.len() + 1];
    for difference in &differences {
        counts[(difference + pairs.len() as i64) as usize] += 1;
    }
    let (ours, theirs) = (
        differences.iter().filter(|d| **d > 0).count(),
        differences.iter().filter(|d| **d < 0).count(),
    );
    let mut p = sign_flip(&differences);
    let mut found = (ours + theirs >= ENOUGH).then(|| bootstrap(&counts, 0));
    let mut test = "sign-flip";
    let sum: i64 = differences.iter().sum();
    let mean = sum as f64 / (pairs.len() * about.n_val.max(1)) as f64;
    if let Some(error) = varying(pairs, &differences) {
        (p, test) = (p.max(error.p(mean)), BOTH);
        found = found.map(|found| found.containing(mean, error.half_width()));
    }
    let found = found.map(|found| found.reaching(p));
    Comparison {
        difference: 100.0 * mean,
        ci_low: found.map(|found| 100.0 * found.low),
        ci_high: found.map(|found| 100.0 * found.high),
        only_tokenizer: Some(ours),
        only_baseline: Some(theirs),
        test: test.into(),
        p,
        ..about
    }
}

/// Returns the error of the mean difference over images and seeds; `None` if it is the same for every seed, as without an encoder.
fn varying(pairs: &[(&Predicted, &Predicted)], differences: &[i64]) -> Option<WholeError> {
    let right = |one: &Predicted| one.right.iter().filter(|right| **right).count() as f64;
    let images = differences.len().max(1) as f64;
    let of_seeds = pairs.iter().map(|(a, b)| (right(a) - right(b)) / images);
    let of_seeds = Vec::from_iter(of_seeds);
    if of_seeds.iter().all(|other| *other == of_seeds[0]) {
        return None;
    }
    let of_image = |sum: &i64| *sum as f64 / pairs.len() as f64;
    let of_images = Vec::from_iter(differences.iter().map(of_image));
    Some(WholeError::of(standard_error(&of_images), &of_seeds))
}

/// Returns for each image the number of seeds with which the first model is right, minus that of the second.
pub fn differences(pairs: &[(&Predicted, &Predicted)]) -> Vec<i64> {
    let images = pairs.first().map_or(0, |(one, _)| one.right.len());
    let of = |image: usize| {
        let each = pairs.iter();
        each.map(|(a, b)| i64::from(a.right[image]) - i64::from(b.right[image]))
            .sum()
    };
    (0..images).map(of).collect()
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
    p_of_sizes(&[a + b], a.abs_diff(b) as i64)
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

/// Mean and 95 % interval of a bootstrap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Mean over the images.
    pub mean: f64,
    /// 2.5th percentile of the resampled means.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

impl Bootstrap {
    /// Returns the interval, which contains `mean` plus and minus `half_width`.
    fn containing(self, mean: f64, half_width: f64) -> Self {
        Self {
            low: self.low.min(mean - half_width),
            high: self.high.max(mean + half_width),
            ..self
        }
    }

    /// Returns the interval, which reaches 0 if a test with the p-value `p` does not tell the mean from 0. A resample of differences
    /// that are almost all of one sign has their sign too, whatever the test says.
    fn reaching(self, p: f64) -> Self {
        let told = p < SIGNIFICANT;
        Self {
            low: if told { self.low } else { self.low.min(0.0) },
            high: if told { self.high } else { self.high.max(0.0) },
            ..self
        }
    }
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
    Bootstrap {
        mean: mean(counts),
        low: at(0.025),
        high: at(0.975),
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
        // Many images, but two seeds that differ by as much as the mean: t = 50 / 25 or so with one degree of freedom.
        assert!(found[0].p > 0.25 && !found[0].is_significant());
        assert!(found[0].ci_low.unwrap() < -200.0 && found[0].ci_high.unwrap() > 300.0);
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

    /// Differences of +20 and -6 points had a star, and "the gap would be 4.6 to 9.4 points". `tests/fixtures/statistics/whole.py` has the
    /// test's p without an error over images.
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
        assert!(
            apart.p > 0.68 && apart.ci_low.unwrap() < -100.0,
            "{apart:?}"
        );
        let near = rows(&[190, 200, 210]);
        assert!(
            near.is_significant() && near.ci_low.unwrap() > 15.0,
            "{near:?}"
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
}
