//! Means and deviations over seeds.

use crate::columns::Record;

/// Returns the names of tokenizers in order of first appearance.
pub fn names<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        if !names.contains(&record.tokenizer.as_str()) {
            names.push(&record.tokenizer);
        }
    }
    names
}

/// Returns the mean, and the standard deviation (n - 1) of more than one value; `None` without values.
pub fn mean_sd(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let sd = (values.len() > 1).then(|| (square / (n - 1.0)).sqrt());
    (!values.is_empty()).then_some((mean, sd))
}

/// Returns the mean difference of `of` between two rows over the seeds of which both have it, and the number of these seeds; `None` if there
/// is no such seed.
pub fn ahead(
    row: &[&Record],
    base: &[&Record],
    of: impl Fn(&Record) -> Option<f64>,
) -> Option<(f64, usize)> {
    let difference = |r: &&Record| {
        let other = base.iter().find(|b| b.seed == r.seed)?;
        Some(of(r)? - of(other)?)
    };
    let all: Vec<f64> = row.iter().filter_map(difference).collect();
    mean_sd(&all).map(|(mean, _)| (mean, all.len()))
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

/// Returns Student's 97.5 % quantile with `freedom` degrees of freedom over the normal one, to 0.2 %.
pub(crate) fn quantile_ratio(freedom: usize) -> f64 {
    const NORMAL: f64 = 1.959_964;
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
}
