//! RankMe (Garrido et al., arXiv 2210.02885): the effective rank of an encoder's vectors, computed without labels.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Added to every share of the singular values, as in the paper.
const EPSILON: f64 = 1e-7;
/// Maximum number of vectors, those of the paper. More are thinned evenly.
pub const MOST: usize = 25_600;
/// Vectors per task.
const PIECE: usize = 256;

/// Computes `exp(-sum_k p_k ln p_k)` with `p_k = s_k / sum s + 1e-7` over the singular values `s` of `features` `[images, dim]`: between 1
/// and about `dim`. Of more than 25,600 images, 25,600 are used, spread evenly. Vectors without a number other than zero give `None`.
///
/// # Errors
/// [`Error::Interrupted`] if `interrupted` returns true.
pub fn rankme(features: &[f32], dim: usize, interrupted: &dyn Fn() -> bool) -> Result<Option<f64>> {
    let images = features.len() / dim.max(1);
    let used = images.min(MOST);
    let rows: Vec<&[f32]> = (0..used)
        .map(|at| at * images / used)
        .map(|image| &features[image * dim..][..dim])
        .collect();
    let values = eigenvalues(gram(&rows, dim), dim, interrupted)?;
    // Rounding may leave the smallest below zero.
    let mut singular: Vec<f64> = values.iter().map(|v| v.max(0.0).sqrt()).collect();
    singular.sort_by(|a, b| b.total_cmp(a));
    singular.truncate(used.min(dim));
    let total: f64 = singular.iter().sum();
    if total <= 0.0 || !total.is_finite() {
        return Ok(None);
    }
    let entropy = singular.iter().map(|s| {
        let share = s / total + EPSILON;
        -share * share.ln()
    });
    Ok(Some(entropy.sum::<f64>().exp()))
}

/// Computes `X' X`, `[dim, dim]`. Pieces are added in order.
fn gram(rows: &[&[f32]], dim: usize) -> Vec<f64> {
    let of = |rows: &[&[f32]]| {
        let mut sums = vec![0.0; dim * dim];
        let mut wide = vec![0.0; dim];
        for row in rows {
            wide.iter_mut()
                .zip(*row)
                .for_each(|(w, v)| *w = f64::from(*v));
            for (line, a) in sums.chunks_exact_mut(dim).zip(&wide) {
                line.iter_mut()
                    .zip(&wide)
                    .for_each(|(sum, b)| *sum += a * b);
            }
        }
        sums
    };
    let mut total = vec![0.0; dim * dim];
    // A few pieces at a time, which bounds memory.
    for some in rows.chunks(PIECE * 16) {
        let pieces: Vec<Vec<f64>> = some.par_chunks(PIECE).map(of).collect();
        for piece in pieces {
            total.iter_mut().zip(piece).for_each(|(t, p)| *t += p);
        }
    }
    total
}

/// Computes the eigenvalues of a symmetric matrix by Jacobi's rotations.
fn eigenvalues(mut a: Vec<f64>, dim: usize, interrupted: &dyn Fn() -> bool) -> Result<Vec<f64>> {
    const SWEEPS: usize = 60;
    let scale: f64 = a.iter().map(|v| v * v).sum();
    for _ in 0..SWEEPS {
        let pairs = (0..dim).flat_map(|p| (p + 1..dim).map(move |q| (p, q)));
        let beside: f64 = pairs.map(|(p, q)| a[p * dim + q].powi(2)).sum();
        if beside <= 1e-28 * scale || !scale.is_finite() {
            break;
        }
        for p in 0..dim {
            if interrupted() {
                return Err(Error::Interrupted);
            }
            (p + 1..dim).for_each(|q| rotate(&mut a, dim, p, q));
        }
    }
    Ok((0..dim).map(|at| a[at * dim + at]).collect())
}

/// Makes the element (`p`, `q`) zero, with `p < q` (Golub and Van Loan, Matrix Computations, algorithm 8.5.1).
fn rotate(a: &mut [f64], dim: usize, p: usize, q: usize) {
    let beside = a[p * dim + q];
    if beside == 0.0 {
        return;
    }
    let half = (a[q * dim + q] - a[p * dim + p]) / (2.0 * beside);
    let tangent = half.signum() / (half.abs() + half.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    for at in 0..dim {
        let (x, y) = (a[at * dim + p], a[at * dim + q]);
        a[at * dim + p] = cosine * x - sine * y;
        a[at * dim + q] = sine * x + cosine * y;
    }
    let (above, below) = a.split_at_mut(q * dim);
    let lines = above[p * dim..][..dim].iter_mut().zip(&mut below[..dim]);
    for (x, y) in lines {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{formula, json};

    /// The vectors of `tests/fixtures/rankme/make.py`.
    fn vectors(images: usize, dim: usize, decay: f64) -> Vec<f32> {
        let values = formula(500_000 + dim as u32, images * dim, 1.0);
        let scaled = values.into_iter().enumerate();
        let scaled = scaled.map(|(at, v)| (f64::from(v) * decay.powi((at % dim) as i32)) as f32);
        scaled.collect()
    }

    #[test]
    fn the_rank_equals_numpy() {
        for one in json("rankme/numpy.json").as_array().unwrap() {
            let whole = |key: &str| one[key].as_u64().unwrap() as usize;
            let number = |key: &str| one[key].as_f64().unwrap();
            let features = vectors(whole("images"), whole("dim"), number("decay"));
            let found = rankme(&features, whole("dim"), &|| false).unwrap().unwrap();
            let expected = number("rankme");
            assert!((found / expected - 1.0).abs() < 1e-4, "{found}, {one}");
        }
    }

    #[test]
    fn copies_have_rank_one_and_zeros_have_none() {
        let copies: Vec<f32> = (0..40).map(|at| [1.0, -2.0, 0.5, 3.0][at % 4]).collect();
        assert!((rankme(&copies, 4, &|| false).unwrap().unwrap() - 1.0).abs() < 1e-4);
        assert_eq!(rankme(&[0.0; 8], 4, &|| false).unwrap(), None);
        assert_eq!(rankme(&[], 4, &|| false).unwrap(), None);
        let stopped = rankme(&copies, 4, &|| true);
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
