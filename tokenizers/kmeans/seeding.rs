//! Chooses the first centres from a sample of patches in memory.

use rand::Rng;
use rand::seq::index;
use rayon::prelude::*;
use tessera_kernels::simd::pairs::squared_distance;

use super::fields::Init;
use super::nearest::{Nearest, NotFinite};
use super::step::distances;
use crate::{Error, Result};

/// Rounds of k-means|| (five are enough according to Bahmani et al.).
const ROUNDS: usize = 5;
/// Minimum rows per parallel task.
const TASK: usize = 256;

/// Returns `k` first centres, `[k, dim]`, chosen from `rows` (`[n, dim]`, n >= k). Calls `check` between centres.
///
/// # Errors
/// [`Error::Fit`] if a row is not finite, and errors of `check`.
pub fn first_centers(
    init: Init,
    rows: &[f32],
    dim: usize,
    k: usize,
    rng: &mut impl Rng,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<f32>> {
    let n = rows.len() / dim;
    let chosen = match init {
        Init::PlusPlus => {
            let first = rng.random_range(0..n);
            let all: Vec<usize> = (0..n).collect();
            plus_plus(rows, &all, &vec![1.0; n], first, dim, k, rng, check)?
        }
        Init::Parallel => parallel(rows, dim, k, rng, check)?,
        Init::Random => index::sample(rng, n, k).into_vec(),
    };
    Ok(gathered(rows, dim, &chosen))
}

/// Returns the rows `chosen`, `[chosen, dim]`.
fn gathered(rows: &[f32], dim: usize, chosen: &[usize]) -> Vec<f32> {
    let mut all = Vec::with_capacity(chosen.len() * dim);
    for i in chosen {
        all.extend_from_slice(&rows[i * dim..(i + 1) * dim]);
    }
    all
}

/// Greedy k-means++ (Arthur and Vassilvitskii 2007; `2 + ln k` candidates per centre as in scikit-learn) over the rows `among`
/// with `weights`. `first` is the index in `among` of the first centre. Returns the chosen rows.
#[expect(clippy::too_many_arguments, reason = "the problem and its generator")]
fn plus_plus(
    rows: &[f32],
    among: &[usize],
    weights: &[f64],
    first: usize,
    dim: usize,
    k: usize,
    rng: &mut impl Rng,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<usize>> {
    let n = among.len();
    let row = |i: usize| &rows[among[i] * dim..(among[i] + 1) * dim];
    let from = |center: usize, nearest: Option<&[f64]>| -> Vec<f64> {
        let each = (0..n).into_par_iter().with_min_len(TASK);
        let each = each.map(|i| {
            let distance = weights[i] * f64::from(squared_distance(row(i), row(center)));
            nearest.map_or(distance, |nearest| nearest[i].min(distance))
        });
        each.collect()
    };
    let trials = 2 + (k as f64).ln() as usize;
    let mut chosen = Vec::with_capacity(k);
    chosen.push(among[first]);
    let mut nearest = from(first, None);
    for _ in 1..k {
        check()?;
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
            chosen.push(among[candidate]);
            nearest = updated;
        }
    }
    Ok(chosen)
}

/// k-means|| (Bahmani et al. 2012). In every round each row becomes a candidate with probability `2 k d / sum d`, where `d` is its
/// squared distance to the candidates so far. Then k-means++ chooses among the candidates, weighted by the number of rows nearest to
/// each. Returns the chosen rows.
fn parallel(
    rows: &[f32],
    dim: usize,
    k: usize,
    rng: &mut impl Rng,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<usize>> {
    let n = rows.len() / dim;
    let refused = |e: NotFinite| Error::Fit(format!("k-means, first centres: sampled {e}"));
    // Row indices, about `10 k`.
    let mut candidates = vec![rng.random_range(0..n)];
    let to = |new: &[usize]| distances(rows, dim, &gathered(rows, dim, new)).map_err(refused);
    let mut nearest = to(&candidates)?;
    for _ in 0..ROUNDS {
        check()?;
        let total: f64 = nearest.iter().copied().map(f64::from).sum();
        if total <= 0.0 {
            break;
        }
        let wanted = 2.0 * k as f64 / total;
        let taken = |d: &f32| rng.random::<f64>() < wanted * f64::from(*d);
        let taken: Vec<bool> = nearest.iter().map(taken).collect();
        let new: Vec<usize> = (0..n).filter(|i| taken[*i]).collect();
        if new.is_empty() {
            continue;
        }
        let closer = to(&new)?;
        nearest
            .iter_mut()
            .zip(closer)
            .for_each(|(d, new)| *d = d.min(new));
        candidates.extend(new);
    }
    let missing = k.saturating_sub(candidates.len());
    candidates.extend(index::sample(rng, n, missing));
    check()?;
    let nearest = Nearest::euclidean(&gathered(rows, dim, &candidates), dim);
    let mut weights = vec![0.0; candidates.len()];
    for id in nearest.assign(rows).map_err(refused)? {
        weights[id as usize] += 1.0;
    }
    drop(nearest);
    let first = pick(&weights, n as f64, rng);
    plus_plus(rows, &candidates, &weights, first, dim, k, rng, check)
}

/// Draws an index with probability proportional to its distance, or any index if all distances are 0.
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use tessera_models::rng::keyed_rng;

    #[test]
    fn an_error_of_check_stops_it() {
        let rows: Vec<f32> = (0..600).map(|i| ((i * 37) % 101) as f32).collect();
        for (init, k) in [(Init::PlusPlus, 20), (Init::Parallel, 20)] {
            let calls = Cell::new(0);
            let check = |limit: usize| {
                calls.set(calls.get() + 1);
                match calls.get() > limit {
                    true => Err(Error::Interrupted),
                    false => Ok(()),
                }
            };
            let of = |limit: usize| {
                calls.set(0);
                let mut rng = keyed_rng(1, "test", 0, 0);
                first_centers(init, &rows, 3, k, &mut rng, &|| check(limit))
            };
            assert_eq!(of(usize::MAX).unwrap().len(), k * 3);
            let all = calls.get();
            assert!(all >= k - 1, "{init:?} checks {all} times");
            assert!(matches!(of(2), Err(Error::Interrupted)), "{init:?}");
            assert_eq!(calls.get(), 3, "{init:?}");
        }
    }
}
