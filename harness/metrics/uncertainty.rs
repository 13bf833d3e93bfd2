//! The chance level and the uncertainty of metrics: labels permuted over whole images, and the bootstrap over images.

use std::io;
use std::path::Path;

use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tessera_models::rng::keyed_rng;

use super::Counts;
use super::by_token::{Bucket, ByToken};
use super::sums::{Sums, Values};

/// Number of label permutations for the null.
pub const PERMUTATIONS: u64 = 20;
/// Number of bootstrap draws.
pub const DRAWS: u64 = 200;
/// Maximum size in bytes of the sums of all draws of one pass.
const SUMS_BYTES: usize = 192 << 20;
/// Maximum size in bytes of the weights or labels of all draws of one pass, except that [`FEWEST`] draws are always allowed.
const IMAGES_BYTES: usize = 1 << 20;
/// Draws per pass if there are many images.
const FEWEST: usize = 16;

/// A metric with its chance level and standard errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Name of the metric.
    pub metric: String,
    /// Value on all images; `None` if it is undefined.
    pub value: Option<f64>,
    /// Standard deviation over bootstrap draws of images (Poisson(1) weights).
    pub se: Option<f64>,
    /// Mean with permuted labels of whole images.
    pub null_mean: Option<f64>,
    /// Standard deviation over the permutations, divided by the square root of their number.
    pub null_se: Option<f64>,
    /// Group of codes, from 0; `None` for ids and for the joint code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
}

/// Computes all metrics of `counts` with their uncertainty, keyed by `seed`. Draws run in parallel; the result does not depend on
/// threads.
///
/// The images' tokens are regrouped once, in a temporary file in the folder `scratch`. Each pass over the file serves as many draws
/// as fit a fixed memory: one bucket of tokens (a megabyte), and one or four bytes per image and draw.
///
/// # Errors
/// If a file cannot be read or the temporary file cannot be written; [`io::ErrorKind::Interrupted`] if `interrupted`, which is
/// polled regularly, returns true.
pub fn estimate(
    counts: &Counts,
    sharp_t: f64,
    seed: u64,
    scratch: &Path,
    interrupted: &dyn Fn() -> bool,
) -> io::Result<Vec<Estimate>> {
    let mut by_token = ByToken::new(counts, scratch)?;
    let nulls = (0..PERMUTATIONS).map(Draw::Null);
    let all: Vec<Draw> = [Draw::Original]
        .into_iter()
        .chain(nulls)
        .chain((0..DRAWS).map(Draw::Bootstrap))
        .collect();
    let mut values = Vec::with_capacity(all.len());
    let mut bucket = Bucket::default();
    for group in all.chunks(at_once(counts.num_classes, counts.num_images())) {
        let mut drawn: Vec<Drawn> = group
            .par_iter()
            .map(|draw| Drawn::new(*draw, seed, counts, &by_token.totals, sharp_t))
            .collect();
        for at in 0..by_token.len() {
            if interrupted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            by_token.read(at, &mut bucket)?;
            drawn
                .par_iter_mut()
                .for_each(|drawn| drawn.add(&bucket, &counts.labels));
        }
        values.extend(
            drawn
                .into_par_iter()
                .map(|d| d.sums.values())
                .collect::<Vec<_>>(),
        );
    }
    let (value, draws) = (&values[0], &values[1..]);
    let (nulls, draws) = draws.split_at(PERMUTATIONS as usize);
    Ok(estimates(value, nulls, draws))
}

fn estimates(value: &Values, nulls: &[Values], draws: &[Values]) -> Vec<Estimate> {
    let metrics = value.list().into_iter().enumerate();
    metrics
        .map(|(at, (name, value))| {
            let over = |all: &[Values]| -> Option<Vec<f64>> {
                all.iter().map(|v| v.list()[at].1).collect()
            };
            let null = over(nulls);
            Estimate {
                metric: name.to_owned(),
                value,
                se: over(draws).map(|v| deviation(&v)),
                null_mean: null.as_deref().map(mean),
                null_se: null.map(|v| deviation(&v) / (v.len() as f64).sqrt()),
                group: None,
            }
        })
        .collect()
}

/// Returns the number of draws per pass over the file: as many as fit in memory, and at least one. The limit for numbers per image
/// allows at least [`FEWEST`], so that a large file is not read too often.
fn at_once(classes: usize, images: usize) -> usize {
    let by_sums = SUMS_BYTES / Sums::bytes(classes).max(1);
    let by_images = IMAGES_BYTES / (4 * images).max(1);
    by_sums.min(by_images.max(FEWEST)).max(1)
}

/// Returns the approximate bytes of [`estimate`]: the sums of the draws of one pass, and their weights or labels.
pub fn memory(classes: usize, images: usize) -> usize {
    let draws = at_once(classes, images).min((1 + PERMUTATIONS + DRAWS) as usize);
    draws * (Sums::bytes(classes) + 4 * images)
}

#[derive(Clone, Copy)]
enum Draw {
    Original,
    Null(u64),
    Bootstrap(u64),
}

/// The state of one draw during a pass.
struct Drawn {
    /// Permuted labels; `None` for the images' own.
    labels: Option<Vec<u32>>,
    /// Number of times each image is drawn; `None` for once each.
    weights: Option<Vec<u8>>,
    sums: Sums,
    row: Row,
}

impl Drawn {
    fn new(draw: Draw, seed: u64, counts: &Counts, totals: &[u32], sharp_t: f64) -> Self {
        let labels = match draw {
            Draw::Null(draw) => {
                let mut labels = counts.labels.clone();
                labels.shuffle(&mut keyed_rng(seed, "null", draw, 0));
                Some(labels)
            }
            _ => None,
        };
        let weights = match draw {
            Draw::Bootstrap(draw) => Some(drawn(seed, draw, counts.num_images())),
            _ => None,
        };
        let mut class_sums = vec![0_u64; counts.num_classes];
        let of = labels.as_deref().unwrap_or(&counts.labels);
        for (image, (label, total)) in of.iter().zip(totals).enumerate() {
            let weight = weights.as_ref().map_or(1, |w| w[image]);
            class_sums[*label as usize] += u64::from(*total) * u64::from(weight);
        }
        let class_sums = class_sums.into_iter().map(|n| n as f64).collect();
        Self {
            labels,
            weights,
            sums: Sums::new(class_sums, sharp_t),
            row: Row::new(counts.num_classes),
        }
    }

    fn add(&mut self, bucket: &Bucket, labels: &[u32]) {
        let labels = self.labels.as_deref().unwrap_or(labels);
        for pairs in bucket.rows() {
            for (image, patches) in pairs {
                let image = *image as usize;
                let weight = self.weights.as_ref().map_or(1, |w| w[image]);
                self.row
                    .add(labels[image], u64::from(*patches) * u64::from(weight));
            }
            self.sums.add_row(self.row.take());
        }
    }
}

/// A row of `R` under construction and the classes that it contains.
struct Row {
    patches: Vec<u64>,
    /// One bit per class.
    touched: Vec<u64>,
    cells: Vec<(u32, f64)>,
}

impl Row {
    fn new(classes: usize) -> Self {
        Self {
            patches: vec![0; classes],
            touched: vec![0; classes.div_ceil(64)],
            cells: Vec::new(),
        }
    }

    #[inline(always)]
    fn add(&mut self, class: u32, patches: u64) {
        self.patches[class as usize] += patches;
        self.touched[class as usize / 64] |= 1 << (class % 64);
    }

    /// Returns (class, patches) in ascending order without zeros, and clears the row.
    fn take(&mut self) -> &[(u32, f64)] {
        self.cells.clear();
        for (at, word) in self.touched.iter_mut().enumerate() {
            while *word != 0 {
                let class = at * 64 + word.trailing_zeros() as usize;
                *word &= *word - 1;
                let patches = std::mem::take(&mut self.patches[class]);
                if patches > 0 {
                    self.cells.push((class as u32, patches as f64));
                }
            }
        }
        &self.cells
    }
}

/// Most tries to draw at least one image.
const TRIES: u64 = 64;

/// Returns how often each image is drawn. Without an image there is no metric, so a draw without any is tried again; of eight images or more,
/// hardly any is.
fn drawn(seed: u64, draw: u64, images: usize) -> Vec<u8> {
    let weight = |draw, image| poisson(keyed_rng(seed, "bootstrap", draw, image).random());
    let tries = (0..TRIES).map(|again| {
        let weights = (0..images as u64).map(|image| weight(draw + again * DRAWS, image));
        weights.collect::<Vec<u8>>()
    });
    let mut tries = tries.filter(|weights| weights.iter().any(|weight| *weight > 0));
    tries.next().unwrap_or_else(|| vec![1; images])
}

/// Converts a uniform number to a Poisson(1) number by inverting the distribution function.
pub(super) fn poisson(uniform: f64) -> u8 {
    let (mut k, mut term) = (0, (-1.0_f64).exp());
    let mut sum = term;
    while uniform > sum && k < 20 {
        k += 1;
        term /= f64::from(k);
        sum += term;
    }
    k
}

/// Returns the mean.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the standard deviation (n - 1).
pub(super) fn deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    let squares: f64 = values.iter().map(|v| (v - center).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A draw without an image counted as 0 of every metric: 37 % of the draws of one image, 5 % of those of three.
    #[test]
    fn every_draw_has_an_image() {
        for images in [1, 3, 8] {
            let sums: Vec<u32> = (0..DRAWS)
                .map(|draw| drawn(7, draw, images).into_iter().map(u32::from).sum())
                .collect();
            assert!(sums.iter().all(|sum| *sum > 0), "{images}: {sums:?}");
            assert!(sums.iter().any(|sum| *sum > images as u32));
        }
    }
}
