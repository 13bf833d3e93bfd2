//! Paired comparison of two tokenizers on the same validation images.
//!
//! For each seed, McNemar's exact test compares the images that only one of the two gets right. Over all seeds, the sign-flip test is
//! its generalisation, and a bootstrap over images of the mean difference gives its interval, if enough images differ. Both show how
//! much the result depends on *these images*. If accuracies vary between seeds, p is at least that of a test over images and
//! seeds (`WholeError`, with the variance between seeds of all rows), and the interval contains that of the test. Holm's method
//! corrects the p-values of a table's rows.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

use crate::columns::Comparison;
use crate::seeds::{WholeError, mean_sd, standard_error};
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

/// Name of the tests where accuracies vary between seeds.
const BOTH: &str = "sign-flip and t";

impl Predicted {
    fn accuracy(&self) -> f64 {
        let right = self.right.iter().filter(|right| **right).count();
        right as f64 / self.right.len().max(1) as f64
    }
}

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

    /// Returns whether its tests count how much accuracies vary between seeds.
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
    let between = Between::of(predicted);
    let mut all = Vec::new();
    for (_, pairs) in &rows {
        all.push(over_seeds(pairs, between, about(&pairs[0], pairs.len())));
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

fn over_seeds(
    pairs: &[(&Predicted, &Predicted)],
    between: Option<Between>,
    about: Comparison,
) -> Comparison {
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
    if let Some(error) = between.and_then(|between| between.error(pairs, &differences)) {
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

/// The variance of an accuracy between seeds.
#[derive(Clone, Copy)]
struct Between {
    variance: f64,
    freedom: usize,
}

impl Between {
    /// Pools the variances of all rows, because that of one row over few seeds is hardly known; `None` if no row varies, as without an encoder.
    fn of(predicted: &[Predicted]) -> Option<Self> {
        let mut rows: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for one in predicted {
            rows.entry(&one.tokenizer).or_default().push(one.accuracy());
        }
        let (mut squares, mut freedom) = (0.0, 0);
        for accuracies in rows.values() {
            let sd = mean_sd(accuracies).and_then(|(_, sd)| sd).unwrap_or(0.0);
            squares += sd * sd * (accuracies.len() as f64 - 1.0);
            freedom += accuracies.len() - 1;
        }
        (squares > 0.0).then(|| Self {
            variance: squares / freedom as f64,
            freedom,
        })
    }

    /// Returns the error of a mean difference over images and several seeds. A pair that varies more than other rows keeps its own error.
    fn error(self, pairs: &[(&Predicted, &Predicted)], differences: &[i64]) -> Option<WholeError> {
        let seeds = pairs.len() as f64;
        let of_images = differences.iter().map(|sum| *sum as f64 / seeds);
        let of_seeds = pairs.iter().map(|(a, b)| a.accuracy() - b.accuracy());
        let own = standard_error(&Vec::from_iter(of_seeds));
        (pairs.len() > 1).then(|| WholeError {
            over_images: standard_error(&Vec::from_iter(of_images)),
            over_seeds: (2.0 * self.variance / seeds).sqrt().max(own),
            freedom: self.freedom,
        })
    }
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
mod tests;
