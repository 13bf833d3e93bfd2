//! First centres, among a sample of patches in memory.

use rand::Rng;
use rand::seq::index;
use rayon::prelude::*;

use super::fields::Init;
use super::nearest::NotFinite;
use super::step::{Stepper, distances};

/// Rounds of k-means|| (Bahmani et al. find five enough).
const ROUNDS: usize = 5;
/// Rows per task of a distance.
const TASK: usize = 256;

/// `k` first centres, `[k, dim]`, from `rows` (`[n, dim]`, n >= k).
pub fn first_centers(
    init: Init,
    rows: &[f32],
    dim: usize,
    k: usize,
    rng: &mut impl Rng,
) -> Result<Vec<f32>, NotFinite> {
    let n = rows.len() / dim;
    match init {
        Init::PlusPlus => {
            let first = rng.random_range(0..n);
            Ok(plus_plus(rows, &vec![1.0; n], first, dim, k, rng))
        }
        Init::Parallel => parallel(rows, dim, k, rng),
        Init::Random => Ok(any(rows, dim, k, rng)),
    }
}

fn any(rows: &[f32], dim: usize, k: usize, rng: &mut impl Rng) -> Vec<f32> {
    let chosen = index::sample(rng, rows.len() / dim, k).into_iter();
    chosen
        .flat_map(|i| &rows[i * dim..(i + 1) * dim])
        .copied()
        .collect()
}

/// Greedy k-means++ (Arthur and Vassilvitskii 2007; scikit-learn tries `2 + ln k` candidates per centre) over rows that
/// count `weights` times.
fn plus_plus(
    rows: &[f32],
    weights: &[f64],
    first: usize,
    dim: usize,
    k: usize,
    rng: &mut impl Rng,
) -> Vec<f32> {
    let n = rows.len() / dim;
    let row = |i: usize| &rows[i * dim..(i + 1) * dim];
    let from = |center: usize, nearest: Option<&[f64]>| -> Vec<f64> {
        let each = (0..n).into_par_iter().with_min_len(TASK);
        let each = each.map(|i| {
            let distance = weights[i] * distance(row(i), row(center));
            nearest.map_or(distance, |nearest| nearest[i].min(distance))
        });
        each.collect()
    };
    let trials = 2 + (k as f64).ln() as usize;
    let mut centers = Vec::with_capacity(k * dim);
    centers.extend_from_slice(row(first));
    let mut nearest = from(first, None);
    for _ in 1..k {
        let total: f64 = nearest.iter().sum();
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for _ in 0..trials {
            let candidate = pick(&nearest, total, rng);
            let updated = from(candidate, Some(&nearest));
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

/// k-means|| (Bahmani et al. 2012): in every round each row becomes a candidate with probability `2 k d / sum d`, `d` its
/// squared distance to the candidates so far; then k-means++ over the candidates, each counting as often as it is the
/// nearest.
fn parallel(rows: &[f32], dim: usize, k: usize, rng: &mut impl Rng) -> Result<Vec<f32>, NotFinite> {
    let n = rows.len() / dim;
    let row = |i: usize| &rows[i * dim..(i + 1) * dim];
    let mut candidates = row(rng.random_range(0..n)).to_vec();
    let mut nearest = distances(rows, dim, &candidates)?;
    for _ in 0..ROUNDS {
        let total: f64 = nearest.iter().copied().map(f64::from).sum();
        if total <= 0.0 {
            break;
        }
        let wanted = 2.0 * k as f64 / total;
        let taken = |d: &f32| rng.random::<f64>() < wanted * f64::from(*d);
        let taken: Vec<bool> = nearest.iter().map(taken).collect();
        let new = (0..n).filter(|i| taken[*i]).flat_map(row).copied();
        let new: Vec<f32> = new.collect();
        if new.is_empty() {
            continue;
        }
        let closer = distances(rows, dim, &new)?;
        nearest
            .iter_mut()
            .zip(closer)
            .for_each(|(d, new)| *d = d.min(new));
        candidates.extend(new);
    }
    let missing = k.saturating_sub(candidates.len() / dim);
    candidates.extend(any(rows, dim, missing, rng));
    let counts = Stepper::new().step(rows, dim, &candidates)?.counts;
    let weights: Vec<f64> = counts.iter().map(|&count| count as f64).collect();
    let first = pick(&weights, n as f64, rng);
    Ok(plus_plus(&candidates, &weights, first, dim, k, rng))
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
