//! Means and deviations over seeds.

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

use std::collections::HashSet;

use crate::columns::Record;

/// Returns the names of tokenizers in order of first appearance.
pub fn names<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let names = records.into_iter().map(|record| record.tokenizer.as_str());
    names.filter(|name| seen.insert(*name)).collect()
}

/// Returns whether two means are equal up to the rounding of their sums. An infinite number equals itself only.
pub fn are_equal(a: f64, b: f64) -> bool {
    let difference = (a - b).abs();
    a == b || (difference.is_finite() && difference <= ROUNDING * a.abs().max(b.abs()))
}

/// Returns `a - b`, or 0 if they are equal up to the rounding of their sums.
pub fn minus(a: f64, b: f64) -> f64 {
    match are_equal(a, b) {
        true => 0.0,
        false => a - b,
    }
}

/// Replaces numbers that are equal up to the rounding of their sums by one of them, so that they are tied.
pub fn tie(values: &mut [f64]) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    for pair in order.windows(2) {
        if are_equal(values[pair[0]], values[pair[1]]) {
            values[pair[1]] = values[pair[0]];
        }
    }
}

/// Relative error of the mean of up to thousands of numbers. Accuracies of other images differ by far more.
const ROUNDING: f64 = 1e-12;

/// Returns the mean, and the standard deviation (n - 1) of more than one value; `None` without values.
pub fn mean_sd(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = values.len() as f64;
    // A sum of equal numbers is rounded: their mean would be another number, with a deviation.
    let mean = match values.iter().all(|value| *value == values[0]) {
        true => *values.first()?,
        false => values.iter().sum::<f64>() / n,
    };
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let sd = (values.len() > 1).then(|| (square / (n - 1.0)).sqrt());
    Some((mean, sd))
}

/// Returns the mean difference of `of` between two rows over the seeds of which both have it, and the number of these seeds; `None` if there
/// is no such seed. The difference of equal means is 0, whatever the order of their seeds.
pub fn ahead(
    row: &[&Record],
    base: &[&Record],
    of: impl Fn(&Record) -> Option<f64>,
) -> Option<(f64, usize)> {
    let both = |r: &&Record| {
        let other = base.iter().find(|b| b.seed == r.seed)?;
        Some((of(r)?, of(other)?))
    };
    let (own, others): (Vec<f64>, Vec<f64>) = row.iter().filter_map(both).unzip();
    let differences = Vec::from_iter(own.iter().zip(&others).map(|(a, b)| a - b));
    let mean = |values: &[f64]| Some(mean_sd(values)?.0);
    let difference = match are_equal(mean(&own)?, mean(&others)?) {
        true => 0.0,
        false => mean(&differences)?,
    };
    Some((difference, own.len()))
}

/// Returns the standard error of the mean of `values` over F fits of a codebook, with the standard errors `within` each:
///
/// ```text
/// se^2 = W + c b^2 / F
/// ```
///
/// - W is the mean of the squared standard errors of the fits, within images. It is not divided by F, because all fits count the
///   same images, so that their errors have about the same sign.
/// - b is the standard deviation of the values between fits (F - 1).
/// - c corrects for the small number of fits: the square of Student's 97.5 % quantile with F - 1 degrees of freedom over the normal
///   one. With it, T ± 1.96 se covers the expected value in 95 of 100 runs also if only the fits vary.
pub fn error_over_fits(values: &[f64], within: &[f64]) -> f64 {
    let squares = within.iter().map(|se| se * se).sum::<f64>() / within.len() as f64;
    let deviation = mean_sd(values).and_then(|(_, sd)| sd).unwrap_or(0.0);
    let between = quantile_ratio(values.len().saturating_sub(1)) * deviation;
    (squares + between * between / values.len() as f64).sqrt()
}

/// Returns the standard error of the mean of `values`.
pub fn standard_error(values: &[f64]) -> f64 {
    let sd = mean_sd(values).and_then(|(_, sd)| sd).unwrap_or(0.0);
    sd / (values.len() as f64).sqrt()
}

/// The error of a mean difference for other images *and* other seeds. At the level p, a mean is told from 0 if it is beyond
///
/// ```text
/// sqrt((z a)^2 + (t b)^2)
/// ```
///
/// - a is the standard error over the images, and z the normal distribution's quantile of 1 - p / 2. The seeds share the images, so a is not divided
///   by their number.
/// - b is the standard error over the seeds, and t Student's quantile with the degrees of freedom of b.
///
/// One t-test with degrees of freedom after Welch and Satterthwaite has more power, but two or three seeds that agree by chance make it
/// a test over images alone: with three seeds, b = 3 a and no difference, it had p below 0.0028 in 2 of 100 draws
/// (`tests/fixtures/statistics/level.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WholeError {
    /// a.
    pub over_images: f64,
    /// b.
    pub over_seeds: f64,
    /// Degrees of freedom of b.
    pub freedom: usize,
}

impl WholeError {
    /// Returns the two-sided p of a mean: the level at which it is just told from 0.
    pub fn p(&self, mean: f64) -> f64 {
        let student = StudentsT::new(0.0, 1.0, self.freedom as f64);
        let (Ok(student), true) = (student, self.over_seeds > 0.0) else {
            return 1.0;
        };
        let normal = Normal::standard();
        // Student's quantile and the normal one of the same level; the sum of squares grows with both.
        let (mut low, mut high) = (0.0, mean.abs() / self.over_seeds);
        for _ in 0..100 {
            let t = (low + high) / 2.0;
            let z = -normal.inverse_cdf(student.sf(t));
            match (z * self.over_images).hypot(t * self.over_seeds) < mean.abs() {
                true => low = t,
                false => high = t,
            }
        }
        2.0 * student.sf(low)
    }

    /// Returns half the width of the 95 % interval.
    pub fn half_width(&self) -> f64 {
        let over_seeds = quantile_ratio(self.freedom) * self.over_seeds;
        NORMAL * self.over_images.hypot(over_seeds)
    }
}

/// The normal distribution's 97.5 % quantile.
const NORMAL: f64 = 1.959_964;

/// Returns Student's 97.5 % quantile with `freedom` degrees of freedom over the normal one, to 0.2 %.
pub(crate) fn quantile_ratio(freedom: usize) -> f64 {
    const STUDENT: [f64; 9] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622,
    ];
    match STUDENT.get(freedom.saturating_sub(1)) {
        Some(quantile) => quantile / NORMAL,
        // Abramowitz and Stegun 26.7.5, the first two terms.
        None => {
            let (z, n) = (NORMAL, freedom as f64);
            let first = (z.powi(2) + 1.0) / (4.0 * n);
            let second = (5.0 * z.powi(4) + 16.0 * z.powi(2) + 3.0) / (96.0 * n * n);
            1.0 + first + second
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_no_deviation() {
        assert_eq!(mean_sd(&[]), None);
        assert_eq!(mean_sd(&[3.0]), Some((3.0, None)));
        assert_eq!(mean_sd(&[1.0, 3.0]), Some((2.0, Some(2.0_f64.sqrt()))));
    }

    /// Three times 28.3 is 84.9 and a bit, and the differences of the two rows below add up to -2.8e-17.
    #[test]
    fn equal_numbers_have_no_deviation_and_no_difference() {
        for value in [28.3, 0.1, 61.7, 33.333_333_333_333_336] {
            for n in [2, 3, 7] {
                assert_eq!(mean_sd(&vec![value; n]), Some((value, Some(0.0))));
            }
        }
        let row = |accuracies: [f64; 3]| {
            let all = (0..).zip(accuracies);
            Vec::from_iter(all.map(|(seed, lp)| Record {
                seed,
                lp_top1: Some(lp),
                ..Record::default()
            }))
        };
        let ahead_of = |a: [f64; 3], b: [f64; 3]| {
            let (a, b) = (row(a), row(b));
            let (a, b) = (Vec::from_iter(&a), Vec::from_iter(&b));
            ahead(&a, &b, |r| r.lp_top1).unwrap()
        };
        let (a, b) = ([0.1, 0.2, 0.4], [0.4, 0.1, 0.2]);
        assert_ne!(a.iter().zip(b).map(|(a, b)| a - b).sum::<f64>(), 0.0);
        assert_eq!(ahead_of(a, b).0.to_bits(), 0);
        // An image in a hundred million.
        let (more, seeds) = ahead_of([50.000_001; 3], [50.0; 3]);
        assert!(seeds == 3 && (more - 1e-6).abs() < 1e-12, "{more}");
    }

    #[test]
    fn only_equal_numbers_are_tied() {
        let sums = [0.1 + 0.2, 0.3, 0.3 + 1e-9];
        let none = f64::NEG_INFINITY;
        let mut values = [5.0, none, sums[0], sums[2], sums[1], none, f64::INFINITY];
        tie(&mut values);
        let expected = [5.0, none, sums[1], sums[2], sums[1], none, f64::INFINITY];
        assert_eq!(values, expected);
    }

    #[test]
    fn quantiles_are_those_of_student() {
        for (freedom, expected) in [
            (1, 12.7062),
            (2, 4.3027),
            (9, 2.2622),
            (10, 2.2281),
            (30, 2.0423),
        ] {
            let found = 1.959_964 * quantile_ratio(freedom);
            assert!((found / expected - 1.0).abs() < 2e-3, "{freedom}: {found}");
        }
    }

    /// `tests/fixtures/statistics/whole.py`.
    #[test]
    fn errors_over_images_and_seeds_equal_an_integral_of_students_density() {
        for (over_images, seeds, p, half_width) in [
            (1.0, &[2.0, 4.0, 9.0][..], 0.148_218_64, 9.168_624_8),
            (0.0, &[20.0, -6.0], 0.685_547_16, 165.180_66),
            (2.0, &[20.0, -6.0], 0.687_312_91, 165.227_17),
            (1.0, &[5.0, 5.1, 4.9], 0.000_282_034_02, 1.975_643_7),
            (1.2, &[-22.6, -20.2, -21.0], 0.001_137_080_7, 3.840_178_6),
        ] {
            let found = WholeError {
                over_images,
                over_seeds: standard_error(seeds),
                freedom: seeds.len() - 1,
            };
            let mean = mean_sd(seeds).unwrap().0;
            for (found, expected, within) in [
                (found.p(mean), p, 1e-4),
                // The quantile's table has five digits.
                (found.half_width(), half_width, 1e-4),
            ] {
                assert!(
                    (found / expected - 1.0).abs() < within,
                    "{found} {expected}"
                );
            }
        }
    }
}
