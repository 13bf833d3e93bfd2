//! Metrics of a codebook that was fitted with several seeds: means with errors over images and fits.

use tessera_reports::error_over_fits;

use super::uncertainty::{Estimate, mean};

/// Combines the estimates of one codebook per fit seed, each with the metrics in the same order.
///
/// The value is the mean over the fits, its error [`error_over_fits`]. The null's mean and error are combined alike. One fit is returned unchanged: its errors cover images only.
pub fn over_fits(fits: &[&[Estimate]]) -> Vec<Estimate> {
    let Some(first) = fits.first().filter(|_| fits.len() > 1) else {
        return fits.first().map(|fit| fit.to_vec()).unwrap_or_default();
    };
    let combined = |(at, one): (usize, &Estimate)| {
        let all = |of: fn(&Estimate) -> Option<f64>| -> Option<Vec<f64>> {
            fits.iter().map(|fit| of(fit.get(at)?)).collect()
        };
        let value = all(|e| e.value);
        let null = all(|e| e.null_mean);
        Estimate {
            metric: one.metric.clone(),
            value: value.as_deref().map(mean),
            se: error(value.as_deref(), all(|e| e.se)),
            null_mean: null.as_deref().map(mean),
            null_se: error(null.as_deref(), all(|e| e.null_se)),
            group: one.group,
        }
    };
    first.iter().enumerate().map(combined).collect()
}

/// Returns the standard error of the mean of `values` with the errors `within` each.
fn error(values: Option<&[f64]>, within: Option<Vec<f64>>) -> Option<f64> {
    Some(error_over_fits(values?, &within?))
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use tessera_models::rng::keyed_rng;

    use super::*;

    fn fit(value: f64, se: f64) -> Vec<Estimate> {
        vec![Estimate {
            metric: "tcas".into(),
            value: Some(value),
            se: Some(se),
            null_mean: Some(0.8),
            null_se: Some(0.001),
            group: None,
        }]
    }

    fn combined(fits: &[Vec<Estimate>]) -> Estimate {
        let fits: Vec<&[Estimate]> = fits.iter().map(Vec::as_slice).collect();
        over_fits(&fits).remove(0)
    }

    #[test]
    fn one_fit_is_unchanged_and_an_undefined_value_stays_undefined() {
        assert_eq!(combined(&[fit(0.7, 0.01)]), fit(0.7, 0.01)[0]);
        assert!(over_fits(&[]).is_empty());
        let mut none = fit(0.7, 0.01);
        none[0].value = None;
        let found = combined(&[fit(0.7, 0.01), none]);
        assert_eq!((found.value, found.se), (None, None));
        assert_eq!(found.null_mean, Some(0.8));
    }

    /// The values of the issue: four fits moved TCAS by 0.0057, and each error over images was at most 0.0009.
    #[test]
    fn the_error_covers_images_and_fits() {
        let found = combined(&[fit(0.70, 0.001), fit(0.71, 0.002), fit(0.72, 0.002)]);
        assert!((found.value.unwrap() - 0.71).abs() < 1e-12);
        // W = 3e-6, b = 0.01, t = 4.3027.
        let expected = (3e-6 + (4.3027_f64 / 1.959964 * 0.01).powi(2) / 3.0).sqrt();
        assert!((found.se.unwrap() - expected).abs() < 1e-12, "{found:?}");
        // Equal fits add nothing and do not make the images more.
        let same = combined(&[fit(0.7, 0.001), fit(0.7, 0.001), fit(0.7, 0.001)]);
        assert!((same.se.unwrap() - 0.001).abs() < 1e-12);
        assert!((same.null_se.unwrap() - 0.001).abs() < 1e-12);
    }

    /// Of 4000 runs with three fits, about 95 % have the expected value within 1.96 errors.
    #[test]
    fn intervals_cover_the_expected_value_also_with_three_fits() {
        let mut rng = keyed_rng(0, "fits", 0, 0);
        let mut normal = || -> f64 { (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0 };
        let mut covered = 0;
        for _ in 0..4000 {
            // The fits share the error of the images.
            let images = 0.001 * normal();
            let fits: Vec<_> = (0..3)
                .map(|_| fit(0.7 + images + 0.005 * normal(), 0.001))
                .collect();
            let found = combined(&fits);
            covered += usize::from((found.value.unwrap() - 0.7).abs() < 1.96 * found.se.unwrap());
        }
        assert!((3740..3900).contains(&covered), "{covered}");
    }
}
