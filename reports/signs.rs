//! The exact sign-flip test of a mean difference over images.
//!
//! If two models are equally good, swapping them on an image is as likely as not, so that the sign of each image's difference is
//! random. The p-value is the part of all choices of signs whose sum is at least as far from 0 as the one found (Fisher's randomisation
//! test for pairs). With differences of -1, 0 and 1 it is McNemar's exact test.

/// Probabilities below this part of 1 are left out, and p is not smaller.
const LEAST: f64 = 1e-100;

/// Returns the two-sided p-value of the sum of `differences` for random signs.
pub fn sign_flip(differences: &[i64]) -> f64 {
    // How many differences have the size 1, 2, ...
    let mut sizes = Vec::new();
    for size in differences.iter().map(|d| d.unsigned_abs() as usize) {
        if sizes.len() < size {
            sizes.resize(size, 0);
        }
        if size > 0 {
            sizes[size - 1] += 1;
        }
    }
    p_of_sizes(&sizes, differences.iter().sum())
}

/// Returns the p-value of a sum of `sizes[k - 1]` numbers of the size k.
pub fn p_of_sizes(sizes: &[usize], sum: i64) -> f64 {
    if sum == 0 {
        return 1.0;
    }
    // The sum is twice that of the positive numbers, minus that of all sizes.
    let all: usize = sizes.iter().zip(1..).map(|(count, k)| count * k).sum();
    let most = (all - sum.unsigned_abs() as usize) / 2;
    let (mut low, mut parts) = (0, vec![1.0]);
    for (count, k) in sizes.iter().zip(1..) {
        let (first, binomial) = fair(*count);
        let mut next = vec![0.0; parts.len() + k * (binomial.len() - 1)];
        for (at, part) in parts.iter().enumerate() {
            for (heads, probability) in binomial.iter().enumerate() {
                next[at + k * heads] += part * probability;
            }
        }
        (low, parts) = (low + k * first, next);
    }
    let begin = (most + 1).saturating_sub(low);
    // Sums that are nearer to 0. If there is none, p is 1, which the sum of the others need not be.
    let nearer = parts.iter().skip(begin).take(all - 2 * most - 1);
    if nearer.sum::<f64>() == 0.0 {
        return 1.0;
    }
    let tail: f64 = parts.iter().take(begin).sum();
    (2.0 * tail).clamp(LEAST, 1.0)
}

/// Returns the probabilities of the numbers of heads of `n` fair coins, from the first that is not negligible.
fn fair(n: usize) -> (usize, Vec<f64>) {
    // log(C(n, k) / 2^n), from k = 0.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut all = Vec::with_capacity(n + 1);
    for k in 0..=n {
        all.push(log);
        log += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    let first = all.iter().take_while(|log| **log < LEAST.ln()).count();
    // Symmetric.
    let kept = &all[first..=n - first];
    (first, kept.iter().map(|log| log.exp()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/fixtures/statistics/make.py`: SciPy over all choices of signs.
    #[test]
    fn the_sign_flip_test_equals_scipy() {
        let fixture = include_str!("../tests/fixtures/statistics/scipy.json");
        let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
        for case in fixture["sign_flip"].as_array().unwrap() {
            let numbers = case["differences"].as_array().unwrap();
            let differences: Vec<i64> = numbers.iter().map(|d| d.as_i64().unwrap()).collect();
            let (found, expected) = (sign_flip(&differences), case["p"].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{case}: {found}");
        }
    }

    #[test]
    fn the_sign_flip_test_equals_a_count_of_all_signs() {
        let differences = [3_i64, -1, 2, 2, 0, -2, 1, 1, 3, 1, -1];
        let sum: i64 = differences.iter().sum();
        let flipped = |signs: u32| -> i64 {
            let signed = differences.iter().enumerate();
            signed
                .map(|(at, d)| if signs >> at & 1 == 1 { -d } else { *d })
                .sum()
        };
        let all = 1 << differences.len();
        let far = (0..all)
            .filter(|signs| flipped(*signs).abs() >= sum.abs())
            .count();
        let expected = far as f64 / f64::from(all);
        assert!((sign_flip(&differences) - expected).abs() < 1e-12);
        assert_eq!((sign_flip(&[]), sign_flip(&[1, -1])), (1.0, 1.0));
    }

    /// It was 0.9999999999999999 or so. A sum of an odd number of ones is never nearer to 0 than 1.
    #[test]
    fn a_certain_p_is_one() {
        for n in (1..2000_usize).step_by(2) {
            assert_eq!(p_of_sizes(&[n], 1), 1.0, "{n}");
            assert_eq!(p_of_sizes(&[0, 0, n], -3), 1.0, "{n}");
        }
        for n in 2..2000_usize {
            let p = p_of_sizes(&[n], 2 - n as i64 % 2);
            assert!(p <= 1.0 && (p < 1.0 || n % 2 == 1), "{n}: {p}");
        }
    }

    /// Four images that differ, all in one direction, are no evidence; thousands are, and the smallest p is not 0.
    #[test]
    fn few_images_are_no_evidence_and_many_have_a_p_value() {
        assert!((sign_flip(&[-1; 4]) - 0.125).abs() < 1e-12);
        let many = vec![3; 20_000];
        assert_eq!(sign_flip(&many), LEAST);
        let even: Vec<i64> = (0..40_000).map(|i| [3, -3, 2, -2, 1, -1][i % 6]).collect();
        assert!(sign_flip(&even) > 0.9);
    }
}
