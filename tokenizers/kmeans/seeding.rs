//! Greedy k-means++ (Arthur and Vassilvitskii 2007; scikit-learn tries `2 + ln k` candidates per centre).

use rand::Rng;

/// `k` rows of `rows` (`[n, dim]`, n >= k) as first centres, `[k, dim]`.
pub fn kmeans_plus_plus(rows: &[f32], dim: usize, k: usize, rng: &mut impl Rng) -> Vec<f32> {
    let n = rows.len() / dim;
    let row = |i: usize| &rows[i * dim..(i + 1) * dim];
    let trials = 2 + (k as f64).ln() as usize;
    let mut centers = Vec::with_capacity(k * dim);
    let first = rng.random_range(0..n);
    centers.extend_from_slice(row(first));
    let mut nearest: Vec<f64> = (0..n).map(|i| distance(row(i), row(first))).collect();
    for _ in 1..k {
        let total: f64 = nearest.iter().sum();
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for _ in 0..trials {
            let candidate = pick(&nearest, total, rng);
            let updated: Vec<f64> = nearest
                .iter()
                .enumerate()
                .map(|(i, d)| d.min(distance(row(i), row(candidate))))
                .collect();
            let potential: f64 = updated.iter().sum();
            if best.as_ref().is_none_or(|(p, ..)| potential < *p) {
                best = Some((potential, candidate, updated));
            }
        }
        if let Some((_, candidate, updated)) = best {
            centers.extend_from_slice(row(candidate));
            nearest = updated;
        }
    }
    centers
}

/// A row with probability proportional to its distance; any row when all distances are 0.
fn pick(nearest: &[f64], total: f64, rng: &mut impl Rng) -> usize {
    if total <= 0.0 {
        return rng.random_range(0..nearest.len());
    }
    let mut left = rng.random::<f64>() * total;
    for (index, distance) in nearest.iter().enumerate() {
        left -= distance;
        if left < 0.0 {
            return index;
        }
    }
    nearest.len() - 1
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    // Eight partial sums let the compiler use vectors; their order is fixed.
    let mut lanes = [0.0_f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(x, y)| (x - y) * (x - y))
        .sum();
    for (x, y) in a8.zip(b8) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += (x - y) * (x - y);
        }
    }
    f64::from(lanes.iter().sum::<f32>() + rest)
}
