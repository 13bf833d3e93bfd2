//! The standard error of a difference between two runs.

use super::side::Side;
use crate::column::{Column, Group};
use crate::columns::MetricRow;
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::paired::{Predicted, SIGNIFICANT, differences};
use crate::seeds::{quantile_ratio, standard_error};
use crate::signs::sign_flip;

/// Relative difference of equal numbers whose sums were rounded in another order.
pub(super) const ROUNDING: f64 = 1e-12;

/// The numbers whose means are compared.
pub(super) struct Paired {
    /// The seeds of which both runs have the number.
    pub(super) seeds: Vec<u64>,
    /// (old, new) of each of them.
    pub(super) pairs: Vec<(f64, f64)>,
    /// Validation images of the old and of the new run.
    pub(super) n_val: (usize, usize),
    /// Whether they are the same images.
    pub(super) same_images: bool,
}

/// Returns the standard error of the difference, by the best method that both runs allow.
pub(super) fn error<'a>(
    column: &Column,
    name: &str,
    (old, new): (&'a Side, &'a Side),
    paired: &Paired,
) -> (Option<f64>, &'static str) {
    let pairs = &paired.pairs[..];
    if column.group == Group::Metric {
        return error_of_metric(column, name, old, new);
    }
    let of = |side: &'a Side| side.predicted.get(key(column)?);
    if let (Some(old), Some(new)) = (of(old), of(new))
        && paired.same_images
        && let Some(se) = by_image(name, &paired.seeds, old, new)
    {
        // Another training of the same rows has other numbers, which the images do not show.
        return match by_seed(pairs) {
            Some(seeds) => (Some(se.hypot(seeds)), "paired by image and seed"),
            None => (Some(se), "paired by image"),
        };
    }
    let is_accuracy = column.group == Group::Accuracy;
    let images = is_accuracy.then(|| binomial(paired)).flatten();
    match (by_seed(pairs), images) {
        // Other images move all seeds alike, so the seeds do not show it.
        (Some(seeds), Some(images)) if !paired.same_images => {
            (Some(seeds.hypot(images)), "by seed, and binomial")
        }
        (Some(seeds), _) => (Some(seeds), "paired by seed"),
        (None, Some(images)) => (Some(images), "binomial, unpaired"),
        (None, None) => (None, ""),
    }
}

/// Returns the binomial error of the difference, in percentage points; `None` without the numbers of images. The seeds share the images.
fn binomial(paired: &Paired) -> Option<f64> {
    let (old_images, new_images) = paired.n_val;
    if old_images == 0 || new_images == 0 {
        return None;
    }
    let n = paired.pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| paired.pairs.iter().map(of).sum::<f64>() / n / 100.0;
    // Agresti and Coull's estimate adds two right images and two wrong ones, so that 0 % and 100 % have an error too. That of the accuracy is
    // larger by the images that it adds.
    let variance = |accuracy: f64, images: usize| {
        let (images, all) = (images as f64, images as f64 + 4.0);
        let p = (accuracy * images + 2.0) / all;
        p * (1.0 - p) / all * (all / images).powi(2)
    };
    let (a, b) = (mean(|p| p.0), mean(|p| p.1));
    Some(100.0 * (variance(a, old_images) + variance(b, new_images)).sqrt())
}

/// Returns the key of the predictions behind an accuracy.
fn key(column: &Column) -> Option<&'static str> {
    let of = |e: &Evaluation| match e.top5.filter(|top5| top5 == column) {
        Some(top5) => Some(top5.name),
        None => (e.top1 == *column).then_some(e.key),
    };
    EVALUATIONS.iter().find_map(of)
}

/// Sources of the error of a metric: over images alone, of one codebook each, and over images and fits.
const IMAGES: &str = "bootstrap of each";
const ONE_FIT: &str = "bootstrap of each, one fit";
pub(super) const FITS: &str = "images and fits of each";

/// Returns the standard error of a metric's difference. Assumes independent errors; for the same images this is an upper bound.
fn error_of_metric(
    column: &Column,
    name: &str,
    old: &Side,
    new: &Side,
) -> (Option<f64>, &'static str) {
    let of = |side: &Side| {
        // The mean over the fits, if there are several, comes first.
        let row = |m: &&MetricRow| m.tokenizer == name && m.is_of(column.name);
        let se = side.metrics.iter().find(row)?.se?;
        let record = side.records.iter().find(|r| r.tokenizer == name)?;
        Some((se, record.fits()))
    };
    let (Some((a, old)), Some((b, new))) = (of(old), of(new)) else {
        return (None, "");
    };
    let by = match old.min(new) {
        _ if old == 0 && new == 0 => IMAGES,
        0 | 1 => ONE_FIT,
        _ => FITS,
    };
    (Some(a.hypot(b)), by)
}

/// Returns the standard error of the seed-mean difference over the images, in percentage points. If the exact test does not tell the
/// difference from 0, because few images differ, it is at least half of the difference. `None` unless both runs have the predictions of
/// every one of `seeds`, whose means are compared: the error of another mean says nothing.
fn by_image(name: &str, seeds: &[u64], old: &[Predicted], new: &[Predicted]) -> Option<f64> {
    fn of<'a>(all: &'a [Predicted], name: &str, seed: u64) -> Option<&'a Predicted> {
        all.iter().find(|p| p.tokenizer == name && p.seed == seed)
    }
    let pair = |seed: &u64| {
        let (new, old) = (of(new, name, *seed)?, of(old, name, *seed)?);
        (old.right.len() == new.right.len()).then_some((new, old))
    };
    let pairs = (seeds.iter().map(pair)).collect::<Option<Vec<(&Predicted, &Predicted)>>>()?;
    let sums = differences(&pairs);
    let scale = 100.0 / pairs.len().max(1) as f64;
    let points: Vec<f64> = sums.iter().map(|sum| scale * *sum as f64).collect();
    let mean = points.iter().sum::<f64>() / points.len() as f64;
    let se = standard_error(&points);
    (!pairs.is_empty()).then(|| match sign_flip(&sums) < SIGNIFICANT {
        true => se,
        false => se.max(mean.abs() / 2.0),
    })
}

/// Returns the standard error of the mean difference over the seeds, times Student's quantile over the normal one. Equal differences of
/// all seeds have none: they do not say how much another seed would differ.
fn by_seed(pairs: &[(f64, f64)]) -> Option<f64> {
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let most = pairs
        .iter()
        .fold(0.0, |most, (a, b)| a.abs().max(b.abs()).max(most));
    let se = standard_error(&differences);
    let varies = pairs.len() > 1 && se > ROUNDING * most;
    varies.then(|| quantile_ratio(pairs.len() - 1) * se)
}
