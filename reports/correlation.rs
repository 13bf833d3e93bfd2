//! Correlation of a training-free metric with accuracy (the paper's Figures 3 and 4): coefficients, the least-squares line and its
//! bootstrap band.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Number of resamples of the band.
const RESAMPLES: usize = 2_000;

/// Minimum points of a bootstrap interval. Of the resamples of fewer points, more than 5 % contain at most two different ones, so that
/// their r is 1 or -1 whatever the points are: 2 % of 6 points, 10 % of 5.
pub const ENOUGH: usize = 6;

/// A least-squares line and correlation coefficients.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Number of points.
    pub n: usize,
    /// Pearson's r.
    pub r: f64,
    /// Square of r: the fraction of the variance that the line explains.
    pub r2: f64,
    /// Spearman's rank correlation, ties averaged.
    pub spearman: f64,
    /// Kendall's tau-b.
    pub kendall: f64,
    /// Of the least-squares line.
    pub slope: f64,
    /// Of the least-squares line.
    pub intercept: f64,
    /// 95 % bootstrap interval of r over the points; `None` for fewer than [`ENOUGH`].
    pub r_interval: Option<(f64, f64)>,
}

/// Fits `points` (x, y); `None` for fewer than three, or if x or y is constant.
pub fn fit(points: &[(f64, f64)]) -> Option<Fit> {
    let (slope, intercept, r) = line(points)?;
    let ranks = |of: fn(&(f64, f64)) -> f64| ranks(&points.iter().map(of).collect::<Vec<_>>());
    let ranked: Vec<(f64, f64)> = ranks(|p| p.0).into_iter().zip(ranks(|p| p.1)).collect();
    Some(Fit {
        n: points.len(),
        r,
        r2: r * r,
        spearman: line(&ranked)?.2,
        kendall: kendall(points),
        slope,
        intercept,
        r_interval: interval(points),
    })
}

fn interval(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    if points.len() < ENOUGH {
        return None;
    }
    let mut resampled: Vec<f64> = resamples(points)
        .filter_map(|points| Some(line(&points)?.2))
        .collect();
    resampled.sort_by(f64::total_cmp);
    Some((at(&resampled, 0.025), at(&resampled, 0.975)))
}

/// Returns the lower and upper end of the line's 95 % bootstrap band at each of `xs`, for at least [`ENOUGH`] points.
pub fn band(points: &[(f64, f64)], xs: &[f64]) -> Vec<(f64, f64)> {
    let lines: Vec<(f64, f64, f64)> = resamples(points).filter_map(|p| line(&p)).collect();
    let ends = |x: &f64| {
        let mut ys: Vec<f64> = lines.iter().map(|(a, b, _)| a * x + b).collect();
        ys.sort_by(f64::total_cmp);
        (at(&ys, 0.025), at(&ys, 0.975))
    };
    xs.iter().map(ends).collect()
}

fn resamples(points: &[(f64, f64)]) -> impl Iterator<Item = Vec<(f64, f64)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    (0..RESAMPLES).map(move |_| {
        let draw = |_| points[rng.random_range(0..points.len())];
        (0..points.len()).map(draw).collect()
    })
}

fn at(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Returns slope, intercept and Pearson's r.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let (first, others) = points.split_first()?;
    let varies = |of: fn(&(f64, f64)) -> f64| others.iter().any(|point| of(point) != of(first));
    if points.len() < 3 || !varies(|p| p.0) || !varies(|p| p.1) {
        return None;
    }
    let n = points.len() as f64;
    let (mx, my) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        xx += (x - mx) * (x - mx);
        yy += (y - my) * (y - my);
        xy += (x - mx) * (y - my);
    }
    if xx <= 1e-24 || yy <= 1e-24 {
        return None;
    }
    let slope = xy / xx;
    Some((slope, my - slope * mx, xy / (xx * yy).sqrt()))
}

/// Returns Pearson's r; `None` for fewer than three points, or if x or y is constant.
pub fn pearson(points: &[(f64, f64)]) -> Option<f64> {
    line(points).map(|(_, _, r)| r)
}

/// Returns ranks from 1, ties averaged.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |v: &f64| {
        let below = sorted.partition_point(|o| o < v);
        let up_to = sorted.partition_point(|o| o <= v);
        (below + up_to + 1) as f64 / 2.0
    };
    values.iter().map(rank).collect()
}

/// Returns Kendall's tau-b.
fn kendall(points: &[(f64, f64)]) -> f64 {
    let (mut agree, mut ties_x, mut ties_y, mut pairs) = (0.0, 0.0, 0.0, 0.0);
    for (i, a) in points.iter().enumerate() {
        for b in &points[i + 1..] {
            let (dx, dy) = (a.0 - b.0, a.1 - b.1);
            pairs += 1.0;
            ties_x += f64::from(dx == 0.0);
            ties_y += f64::from(dy == 0.0);
            if dx != 0.0 && dy != 0.0 {
                agree += (dx * dy).signum();
            }
        }
    }
    agree / ((pairs - ties_x) * (pairs - ties_y)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper;

    fn paper(of: fn(&paper::PaperRow) -> Option<f64>) -> Vec<(f64, f64)> {
        let rows = paper::rows(7);
        rows.iter()
            .filter_map(|r| Some((r.tcas?, of(r)?)))
            .collect()
    }

    #[test]
    fn the_papers_table_7_gives_the_known_fit() {
        let found = fit(&paper(|r| r.lp_acc)).unwrap();
        assert_eq!(found.n, 16);
        for (found, expected) in [(found.r, -0.9195), (found.r2, 0.8456)] {
            assert!((found - expected).abs() < 5e-5, "{found} {expected}");
        }
        assert!(
            (found.slope + 23.956).abs() < 5e-4 && (found.intercept - 62.941).abs() < 5e-4,
            "{found:?}"
        );
        assert!((fit(&paper(|r| r.ft_acc)).unwrap().r + 0.51).abs() < 5e-3);
        let (low, high) = found.r_interval.unwrap();
        assert!(low < found.r && found.r < high && high < 0.0, "{found:?}");
    }

    /// `tests/fixtures/statistics/correlation.py`: scipy.
    #[test]
    fn rank_correlations_equal_those_of_scipy() {
        let fixture = include_str!("../tests/fixtures/statistics/correlation.json");
        let cases: serde_json::Value = serde_json::from_str(fixture).unwrap();
        for case in cases.as_array().unwrap() {
            let numbers = |key: &str| -> Vec<f64> {
                let list = case[key].as_array().unwrap();
                list.iter().map(|v| v.as_f64().unwrap()).collect()
            };
            let points: Vec<(f64, f64)> = numbers("x").into_iter().zip(numbers("y")).collect();
            let found = fit(&points).unwrap();
            for (name, found) in [
                ("r", found.r),
                ("spearman", found.spearman),
                ("kendall", found.kendall),
            ] {
                let expected = case[name].as_f64().unwrap();
                assert!(
                    (found - expected).abs() < 1e-12,
                    "{name}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn too_few_or_constant_points_have_no_line() {
        assert_eq!(fit(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(fit(&[(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]), None);
        // A line, but no interval: any three points may lie on one.
        let points =
            |n: usize| -> Vec<(f64, f64)> { (0..n).map(|i| (i as f64, (i * i) as f64)).collect() };
        assert_eq!(fit(&points(ENOUGH - 1)).unwrap().r_interval, None);
        assert!(fit(&points(ENOUGH)).unwrap().r_interval.is_some());
    }

    #[test]
    fn the_band_is_around_the_line() {
        let points = paper(|r| r.lp_acc);
        let fit = fit(&points).unwrap();
        for (x, (low, high)) in [0.1, 0.5, 0.9]
            .into_iter()
            .zip(band(&points, &[0.1, 0.5, 0.9]))
        {
            let y = fit.slope * x + fit.intercept;
            assert!(low < y && y < high && high - low < 10.0, "{low} {y} {high}");
        }
    }
}
