//! One assignment and update over rows in memory. Every fit repeats it, and `bench speed kmeans` measures it.
//!
//! A tile of rows is assigned and added to its centres' sums while it is still in cache. Tasks have fixed sizes and sum in f32; their
//! sums are merged in order in f64. So the bytes do not depend on the number of threads.

use rayon::prelude::*;
use tessera_kernels::simd::pairs::{add_with_square, squared_distance};

use super::nearest::{Nearest, NotFinite, Products, Scratch, TILE, euclidean_bias, tiles};

/// Minimum rows per task, so that merging its sums costs little.
const TASK_ROWS: usize = 43 * TILE;

/// Result of one assignment.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Sum of the rows of each centre, `[k, dim]`.
    pub sums: Vec<f64>,
    /// Number of rows of each centre, `[k]`.
    pub counts: Vec<u64>,
    /// Sum of squared distances to the nearest centre.
    pub inertia: f64,
    /// Sum of squared lengths of the rows.
    pub squares: f64,
}

impl Step {
    /// Returns the result for zero rows.
    pub(super) fn nothing(k: usize, dim: usize) -> Self {
        Self {
            sums: vec![0.0; k * dim],
            counts: vec![0; k],
            inertia: 0.0,
            squares: 0.0,
        }
    }

    /// Adds the result of other rows with the same centres.
    pub(super) fn add(&mut self, other: &Self) {
        self.sums
            .iter_mut()
            .zip(&other.sums)
            .for_each(|(a, b)| *a += b);
        self.counts
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(a, b)| *a += b);
        self.inertia += other.inertia;
        self.squares += other.squares;
    }

    /// Returns the variance of the rows, averaged over their `dim` features.
    pub(super) fn mean_variance(&self) -> f64 {
        let dim = self.sums.len() / self.counts.len();
        let n = self.counts.iter().sum::<u64>() as f64;
        let of = |at: usize| self.sums.iter().skip(at).step_by(dim).sum::<f64>() / n;
        let means: f64 = (0..dim).map(|at| of(at).powi(2)).sum();
        (self.squares / n - means) / dim as f64
    }

    /// Returns the mean of the rows of each centre, `[k, dim]`. A centre without rows keeps its value in `centers`.
    pub fn means(&self, centers: &[f32]) -> Vec<f32> {
        let dim = self.sums.len() / self.counts.len();
        let mut means = centers.to_vec();
        let sums = self.sums.chunks_exact(dim).zip(&self.counts);
        for (mean, (sum, &count)) in means.chunks_exact_mut(dim).zip(sums) {
            if count > 0 {
                let each = mean.iter_mut().zip(sum);
                each.for_each(|(m, s)| *m = (s / count as f64) as f32);
            }
        }
        means
    }
}

/// Repeats the assignment and update over rows in memory and reuses its buffers between calls.
#[derive(Default)]
pub struct Stepper {
    parts: Vec<Part>,
}

impl Stepper {
    /// Returns a stepper with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Assigns every row to its nearest centre (Euclidean, the lower index wins a tie) and sums the rows of each centre. Runs on the
    /// current rayon pool; the result does not depend on its size.
    ///
    /// # Shapes
    /// `rows` `[n, dim]`, `centers` `[k, dim]`.
    ///
    /// # Errors
    /// [`NotFinite`] if a row cannot be assigned.
    ///
    /// # Panics
    /// If `dim` is 0 or does not divide both lengths.
    pub fn step(&mut self, rows: &[f32], dim: usize, centers: &[f32]) -> Result<Step, NotFinite> {
        check(rows, dim, centers);
        let nearest = Nearest::euclidean(centers, dim);
        let k = centers.len() / dim;
        let task = task_rows(k);
        let tasks = rows.par_chunks(task * dim).enumerate();
        self.parts.resize_with(tasks.len(), Part::default);
        tasks.zip(&mut self.parts).for_each_init(
            || nearest.scratch(),
            |scratch, ((at, rows), part)| part.fill(rows, (k, dim), &nearest, scratch, at * task),
        );
        merged(&self.parts, centers, dim)
    }
}

/// Computes only the matrix products of a step, in f32 with the `gemm` crate, on the same tiles and threads: the reference speed for
/// [`Stepper::step`], which is faster if it uses bf16 products. Returns a number that depends on all products.
///
/// # Panics
/// As [`Stepper::step`].
pub fn products(rows: &[f32], dim: usize, centers: &[f32]) -> f32 {
    check(rows, dim, centers);
    let products = Products::new(centers, dim, &euclidean_bias(centers, dim));
    let task = task_rows(centers.len() / dim);
    let tasks = rows.par_chunks(task * dim).map_init(
        || (Vec::new(), vec![0.0; TILE * products.width()]),
        |(padded, scores), rows| {
            let tiles = rows.chunks(TILE * dim).map(|tile| {
                products.of(tile, padded, scores);
                scores[0]
            });
            tiles.sum::<f32>()
        },
    );
    tasks.sum()
}

/// Returns the squared distance of every row to its nearest centre, `[n]`.
///
/// # Errors
/// As [`Stepper::step`].
pub(super) fn distances(rows: &[f32], dim: usize, centers: &[f32]) -> Result<Vec<f32>, NotFinite> {
    check(rows, dim, centers);
    let nearest = Nearest::euclidean(centers, dim);
    let mut distances = vec![0.0; rows.len() / dim];
    let tasks = distances.par_chunks_mut(TASK_ROWS);
    tasks.zip(rows.par_chunks(TASK_ROWS * dim)).for_each_init(
        || nearest.scratch(),
        |scratch, (distances, rows)| {
            let tiles = distances.chunks_mut(TILE).zip(tiles(rows, dim));
            for (distances, (tile, ahead)) in tiles {
                nearest.assign_tile(tile, ahead, scratch, |row, x, id| {
                    let of = |id| squared_distance(x, &centers[id as usize * dim..][..dim]);
                    distances[row] = id.map_or(f32::NAN, of);
                });
            }
        },
    );
    match distances.iter().position(|distance| !distance.is_finite()) {
        Some(row) => Err(NotFinite { row }),
        None => Ok(distances),
    }
}

fn check(rows: &[f32], dim: usize, centers: &[f32]) {
    assert!(
        dim > 0 && rows.len().is_multiple_of(dim) && centers.len().is_multiple_of(dim),
        "{} and {} numbers are not rows of {dim}",
        rows.len(),
        centers.len()
    );
}

/// Returns the row farthest from its centre in each task ([`task_rows`]): (squared distance, row), the first in case of a tie.
///
/// # Errors
/// As [`Stepper::step`].
pub(super) fn farthest(
    rows: &[f32],
    dim: usize,
    centers: &[f32],
) -> Result<Vec<(f32, usize)>, NotFinite> {
    let run = task_rows(centers.len() / dim);
    let distances = distances(rows, dim, centers)?;
    let of = |(at, distances): (usize, &[f32])| {
        let rows = distances.iter().copied().zip(at * run..);
        rows.fold((f32::NEG_INFINITY, at * run), |most, row| {
            if row.0 > most.0 { row } else { most }
        })
    };
    Ok(distances.chunks(run).enumerate().map(of).collect())
}

/// Returns the rows per task. The number grows with `k`, so that the sums of all tasks stay small compared with the rows.
pub(super) fn task_rows(k: usize) -> usize {
    TASK_ROWS.max((4 * k).next_multiple_of(TILE))
}

/// The sums of one task.
#[derive(Default)]
struct Part {
    sums: Vec<f32>,
    counts: Vec<u32>,
    squares: f64,
    failed: Option<NotFinite>,
}

impl Part {
    fn fill(
        &mut self,
        rows: &[f32],
        (k, dim): (usize, usize),
        nearest: &Nearest,
        scratch: &mut Scratch,
        first: usize,
    ) {
        self.sums.clear();
        self.sums.resize(k * dim, 0.0);
        self.counts.clear();
        self.counts.resize(k, 0);
        (self.squares, self.failed) = (0.0, None);
        for (at, (tile, ahead)) in tiles(rows, dim).enumerate() {
            nearest.assign_tile(tile, ahead, scratch, |row, x, id| {
                let square = id.map_or(f32::NAN, |id| self.absorb(x, id as usize));
                if !square.is_finite() {
                    let row = first + at * TILE + row;
                    self.failed.get_or_insert(NotFinite { row });
                }
            });
        }
    }

    /// Adds a row to its centre. Returns the row's squared length.
    #[inline(always)]
    fn absorb(&mut self, row: &[f32], id: usize) -> f32 {
        let sum = &mut self.sums[id * row.len()..(id + 1) * row.len()];
        let square = add_with_square(sum, row);
        self.counts[id] += 1;
        self.squares += f64::from(square);
        square
    }
}

fn merged(parts: &[Part], centers: &[f32], dim: usize) -> Result<Step, NotFinite> {
    if let Some(failed) = parts.iter().find_map(|part| part.failed) {
        return Err(failed);
    }
    let mut sums = vec![0.0; centers.len()];
    sums.par_chunks_mut(dim).enumerate().for_each(|(id, sum)| {
        for part in parts.iter().filter(|part| part.counts[id] > 0) {
            let add = &part.sums[id * dim..(id + 1) * dim];
            sum.iter_mut()
                .zip(add)
                .for_each(|(s, v)| *s += f64::from(*v));
        }
    });
    let count = |id: usize| parts.iter().map(|part| u64::from(part.counts[id])).sum();
    let counts: Vec<u64> = (0..centers.len() / dim).map(count).collect();
    let squares: f64 = parts.iter().map(|part| part.squares).sum();
    Ok(Step {
        // Rounding can make it negative if rows equal centres.
        inertia: (squares - beyond_distances(&sums, &counts, centers, dim)).max(0.0),
        sums,
        counts,
        squares,
    })
}

/// Returns the squared lengths of all rows minus their squared distances: the sum over centres of
/// `2 c.(sum of its rows) - count |c|^2`.
fn beyond_distances(sums: &[f64], counts: &[u64], centers: &[f32], dim: usize) -> f64 {
    let all = sums.chunks_exact(dim).zip(centers.chunks_exact(dim));
    let each = all.zip(counts).map(|((sum, center), count)| {
        let pairs = sum.iter().zip(center);
        let term = |(s, c): (&f64, &f32)| f64::from(*c) * (2.0 * s - *count as f64 * f64::from(*c));
        pairs.map(term).sum::<f64>()
    });
    each.sum()
}

#[cfg(test)]
mod tests;
