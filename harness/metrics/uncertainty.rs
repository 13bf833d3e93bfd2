//! What chance gives, and how sure a value is: labels permuted over whole images, images drawn again.

use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tessera_models::rng::keyed_rng;

use super::{Counts, Values};

/// Label permutations of the null.
pub const PERMUTATIONS: u64 = 20;
/// Bootstrap draws.
pub const DRAWS: u64 = 200;

/// A metric with what chance would give and its standard errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The metric's name.
    pub metric: String,
    /// Its value on all images; `None` where it is not defined.
    pub value: Option<f64>,
    /// Standard deviation over bootstrap draws of images (Poisson(1) weights).
    pub se: Option<f64>,
    /// Mean when the labels of whole images are permuted.
    pub null_mean: Option<f64>,
    /// Standard deviation over the permutations, over the root of their number.
    pub null_se: Option<f64>,
}

/// All metrics of `counts` with their uncertainty, keyed by `seed`. Parallel over draws; the same on any number of threads.
pub fn estimate(counts: &Counts, sharp_t: f64, seed: u64) -> Vec<Estimate> {
    let compact = Compact::new(counts);
    let ones = vec![1.0; counts.num_images()];
    let value = compact.values(&counts.labels, &ones, sharp_t);
    let nulls: Vec<Values> = (0..PERMUTATIONS)
        .into_par_iter()
        .map(|draw| {
            let mut labels = counts.labels.clone();
            labels.shuffle(&mut keyed_rng(seed, "null", draw, 0));
            compact.values(&labels, &ones, sharp_t)
        })
        .collect();
    let draws: Vec<Values> = (0..DRAWS)
        .into_par_iter()
        .map(|draw| {
            let weights: Vec<f64> = (0..counts.num_images() as u64)
                .map(|image| poisson(keyed_rng(seed, "bootstrap", draw, image).random()))
                .collect();
            compact.values(&counts.labels, &weights, sharp_t)
        })
        .collect();
    let metrics = value.list().into_iter().enumerate();
    metrics
        .map(|(at, (name, value))| {
            let over = |all: &[Values]| -> Option<Vec<f64>> {
                all.iter().map(|v| v.list()[at].1).collect()
            };
            let null = over(&nulls);
            Estimate {
                metric: name.to_owned(),
                value,
                se: over(&draws).map(|v| deviation(&v)),
                null_mean: null.as_deref().map(mean),
                null_se: null.map(|v| deviation(&v) / (v.len() as f64).sqrt()),
            }
        })
        .collect()
}

/// Counts over used tokens only, so that a draw touches no empty row.
struct Compact<'a> {
    counts: &'a Counts,
    row: Vec<u32>,
    rows: usize,
}

impl<'a> Compact<'a> {
    fn new(counts: &'a Counts) -> Self {
        let used = counts.used_tokens();
        let mut row = vec![0; counts.codebook_size];
        used.iter()
            .enumerate()
            .for_each(|(at, token)| row[*token as usize] = at as u32);
        Self {
            counts,
            row,
            rows: used.len(),
        }
    }

    fn values(&self, labels: &[u32], weights: &[f64], sharp_t: f64) -> Values {
        let classes = self.counts.num_classes;
        let mut table = vec![0.0; self.rows * classes];
        for (image, (label, weight)) in labels
            .iter()
            .zip(weights)
            .enumerate()
            .filter(|(_, (_, w))| **w > 0.0)
        {
            for (token, count) in self.counts.image(image) {
                table[self.row[*token as usize] as usize * classes + *label as usize] +=
                    weight * f64::from(*count);
            }
        }
        Values::of(&table, classes, sharp_t)
    }
}

/// A Poisson(1) number from a uniform one, by its distribution function.
fn poisson(uniform: f64) -> f64 {
    let (mut k, mut term) = (0.0, (-1.0_f64).exp());
    let mut sum = term;
    while uniform > sum && k < 20.0 {
        k += 1.0;
        term /= k;
        sum += term;
    }
    k
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation (n - 1).
fn deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    let squares: f64 = values.iter().map(|v| (v - center).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}
