//! How much a correlation over few tokenizers can be trusted: its range without any one point, and its permutation p-value.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::correlation::{pearson, ranks};

/// Largest number of points of which all permutations are counted.
const EXACT: usize = 8;
/// Random permutations of more points.
const PERMUTATIONS: usize = 10_000;
/// Difference of two sums of the same terms in another order.
const ROUNDING: f64 = 1e-12;

/// Checks of Pearson's or Spearman's coefficient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Doubt {
    /// Smallest and largest coefficient without one of the points; `None` for fewer than four points.
    pub without_one: Option<(f64, f64)>,
    /// Two-sided p-value: the part of the permutations of y whose coefficient is at least as far from 0. Of more than eight points,
    /// random ones, plus one.
    pub p: f64,
    /// The point without which the coefficient has the other sign, less than half of its size, or no value; if several, the one with the largest
    /// effect.
    pub decided_by: Option<usize>,
}

/// Checks Pearson's coefficient of `points`; `None` if it is not defined.
pub fn of_pearson(points: &[(f64, f64)]) -> Option<Doubt> {
    of(points, |points| points.to_vec())
}

/// Checks Spearman's coefficient of `points`; `None` if it is not defined.
pub fn of_spearman(points: &[(f64, f64)]) -> Option<Doubt> {
    of(points, ranked)
}

/// Returns the ranks of x and of y.
fn ranked(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (x, y): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    ranks(&x).into_iter().zip(ranks(&y)).collect()
}

/// Prepares points for Pearson's coefficient.
type Prepare = fn(&[(f64, f64)]) -> Vec<(f64, f64)>;

fn of(points: &[(f64, f64)], prepared: Prepare) -> Option<Doubt> {
    let all = prepared(points);
    let r = pearson(&all)?;
    let without = |at: usize| {
        let mut others = points.to_vec();
        others.remove(at);
        pearson(&prepared(&others))
    };
    let without: Vec<Option<f64>> = match points.len() {
        0..4 => Vec::new(),
        n => (0..n).map(without).collect(),
    };
    let found = without.iter().flatten().copied();
    let ends = found.clone().reduce(f64::min).zip(found.reduce(f64::max));
    // Without a point that alone varies, there is no coefficient.
    let left = |at: &usize| without[*at].map_or(f64::NEG_INFINITY, |other| other * r.signum());
    let weakest = (0..without.len()).min_by(|a, b| left(a).total_cmp(&left(b)));
    Some(Doubt {
        without_one: ends,
        p: permutation_p(&all, r),
        // A coefficient of 0 has no sign and no half.
        decided_by: weakest.filter(|at| r != 0.0 && left(at) < r.abs() / 2.0),
    })
}

/// Returns the two-sided p-value of the coefficient `r`.
fn permutation_p(points: &[(f64, f64)], r: f64) -> f64 {
    let (x, mut y): (Vec<f64>, Vec<f64>) = (
        unit(points.iter().map(|p| p.0)),
        unit(points.iter().map(|p| p.1)),
    );
    let is_as_far = |y: &[f64]| {
        let permuted: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
        permuted.abs() >= r.abs() - ROUNDING
    };
    if points.len() <= EXACT {
        let (mut far, mut all) = (0_u32, 0_u32);
        each_permutation(&mut y, &mut |y| {
            far += u32::from(is_as_far(y));
            all += 1;
        });
        return f64::from(far) / f64::from(all);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let far = (0..PERMUTATIONS).filter(|_| {
        y.shuffle(&mut rng);
        is_as_far(&y)
    });
    (1 + far.count()) as f64 / (1 + PERMUTATIONS) as f64
}

/// Returns the values minus their mean, scaled to length 1.
fn unit(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let centred: Vec<f64> = values.iter().map(|v| v - mean).collect();
    let length = centred.iter().map(|v| v * v).sum::<f64>().sqrt();
    centred.into_iter().map(|v| v / length).collect()
}

/// Calls `take` with every permutation of `values` (Heap's algorithm).
fn each_permutation(values: &mut [f64], take: &mut impl FnMut(&[f64])) {
    let n = values.len();
    let mut counters = vec![0; n];
    take(values);
    let mut at = 1;
    while at < n {
        if counters[at] < at {
            let other = if at % 2 == 0 { 0 } else { counters[at] };
            values.swap(other, at);
            take(values);
            counters[at] += 1;
            at = 1;
        } else {
            counters[at] = 0;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/fixtures/statistics/doubt.py`: NumPy and SciPy.
    #[test]
    fn ranges_and_p_values_equal_those_of_scipy() {
        let fixture = include_str!("../tests/fixtures/statistics/doubt.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(fixture).unwrap();
        for case in &cases {
            let numbers = |key: &str| -> Vec<f64> {
                let list = case[key].as_array().unwrap();
                list.iter().map(|v| v.as_f64().unwrap()).collect()
            };
            let points: Vec<(f64, f64)> = numbers("x").into_iter().zip(numbers("y")).collect();
            for (name, found) in [
                ("pearson", of_pearson(&points).unwrap()),
                ("spearman", of_spearman(&points).unwrap()),
            ] {
                let expected = |key: &str| case[name][key].as_f64().unwrap();
                let (low, high) = found.without_one.unwrap();
                assert!((low - expected("low")).abs() < 1e-12, "{name} {found:?}");
                assert!((high - expected("high")).abs() < 1e-12, "{name} {found:?}");
                let decided = case[name]["decided_by"].as_u64().map(|at| at as usize);
                assert_eq!(found.decided_by, decided, "{name}");
                let p = expected("p");
                let error = match points.len() <= EXACT {
                    true => 1e-12,
                    false => 4.0 * (p * (1.0 - p) / PERMUTATIONS as f64).sqrt() + 1e-4,
                };
                assert!((found.p - p).abs() < error, "{name}: {} {p}", found.p);
            }
        }
    }

    #[test]
    fn every_permutation_comes_once() {
        let mut found = std::collections::BTreeSet::new();
        let mut count = 0;
        each_permutation(&mut [1.0, 2.0, 3.0, 4.0, 5.0], &mut |values| {
            found.insert(values.iter().map(|v| *v as u8).collect::<Vec<u8>>());
            count += 1;
        });
        assert_eq!((count, found.len()), (120, 120));
    }

    #[test]
    fn a_point_that_alone_varies_decides() {
        let mut points = vec![(1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (1.0, 1.5)];
        points.push((5.0, 9.0));
        let found = of_pearson(&points).unwrap();
        assert_eq!(found.decided_by, Some(4));
        assert_eq!(of_pearson(&points[..4]), None, "x is constant");
        // Three points have no range, because two are always on a line.
        let three = [(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)];
        let found = of_pearson(&three).unwrap();
        assert_eq!((found.without_one, found.decided_by), (None, None));
        assert_eq!(found.p, 1.0);
    }
}
