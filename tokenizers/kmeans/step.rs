//! One assignment and update over rows in memory: what every fit repeats, and what `bench speed kmeans` measures.
//!
//! A tile of rows is placed and added to its centres' sums while it is still in cache. Sums of a task are f32; tasks are
//! fixed runs of tiles, merged in their order into f64: the same bytes on any number of threads.

use rayon::prelude::*;
use tessera_models::kernels::simd::{LANES, dot, total, vectorized};

use super::nearest::{Nearest, NotFinite, Scratch, TILE};

/// Rows of a task, at least: enough that its sums cost little to merge.
const TASK_ROWS: usize = 43 * TILE;

/// What one pass of assignment found.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Sum of the rows of each centre, `[k, dim]`.
    pub sums: Vec<f64>,
    /// Rows of each centre, `[k]`.
    pub counts: Vec<u64>,
    /// Sum of squared distances to the nearest centre.
    pub inertia: f64,
    /// Sum of squared lengths of the rows.
    pub squares: f64,
    /// The row farthest from its centre among each run of rows: (squared distance, row).
    pub farthest: Vec<(f32, usize)>,
}

impl Step {
    /// Nothing seen yet.
    pub(super) fn nothing(k: usize, dim: usize) -> Self {
        Self {
            sums: vec![0.0; k * dim],
            counts: vec![0; k],
            inertia: 0.0,
            squares: 0.0,
            farthest: Vec::new(),
        }
    }

    /// Adds what other rows gave with the same centres; the farthest rows are the caller's to keep.
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

    /// The variance of the rows, averaged over their `dim` numbers.
    pub(super) fn mean_variance(&self) -> f64 {
        let dim = self.sums.len() / self.counts.len();
        let n = self.counts.iter().sum::<u64>() as f64;
        let of = |at: usize| self.sums.iter().skip(at).step_by(dim).sum::<f64>() / n;
        let means: f64 = (0..dim).map(|at| of(at).powi(2)).sum();
        (self.squares / n - means) / dim as f64
    }

    /// The means of the rows of each centre, `[k, dim]`; a centre without rows stays as it is in `centers`.
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

/// One assignment and update over rows in memory, again and again: keeps its buffers between calls.
#[derive(Default)]
pub struct Stepper {
    parts: Vec<Part>,
}

impl Stepper {
    /// Without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Places every row at its nearest centre (Euclidean, the lower index wins a tie) and sums the rows of each. Runs on
    /// the current rayon pool; the result does not depend on its size.
    ///
    /// # Shapes
    /// `rows` `[n, dim]`, `centers` `[k, dim]`.
    ///
    /// # Errors
    /// [`NotFinite`] when a row cannot be placed.
    ///
    /// # Panics
    /// When `dim` is 0 or does not divide both.
    pub fn step(&mut self, rows: &[f32], dim: usize, centers: &[f32]) -> Result<Step, NotFinite> {
        check(rows, dim, centers);
        let nearest = Nearest::euclidean(centers, dim);
        let k = centers.len() / dim;
        let task = task_rows(k);
        let tasks = rows.par_chunks(task * dim).enumerate();
        self.parts.resize_with(tasks.len(), Part::default);
        tasks.zip(&mut self.parts).for_each_init(
            || nearest.scratch(),
            |scratch, ((at, rows), part)| part.fill(rows, dim, k, &nearest, scratch, at * task),
        );
        merged(&self.parts, k, dim)
    }
}

/// The matrix products of [`Stepper::step`] alone, on the same tiles, threads and buffers: the limit to hold it against. Returns a
/// number that depends on them.
///
/// # Panics
/// As [`Stepper::step`].
pub fn products(rows: &[f32], dim: usize, centers: &[f32]) -> f32 {
    check(rows, dim, centers);
    let nearest = Nearest::euclidean(centers, dim);
    let task = task_rows(centers.len() / dim);
    let tasks = rows.par_chunks(task * dim).map_init(
        || nearest.scratch(),
        |scratch, rows| {
            let tiles = rows.chunks(TILE * dim);
            tiles
                .map(|tile| nearest.products(tile, scratch))
                .sum::<f32>()
        },
    );
    tasks.sum()
}

/// The squared distance of every row to its nearest centre, `[n]`.
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
            for (distances, tile) in distances.chunks_mut(TILE).zip(rows.chunks(TILE * dim)) {
                vectorized(
                    #[inline(always)]
                    || {
                        nearest.place(tile, scratch);
                        let rows = tile.chunks_exact(dim).zip(&scratch.best);
                        for (distance, (row, best)) in distances.iter_mut().zip(rows) {
                            *distance = dot(row, row) - 2.0 * best;
                        }
                    },
                );
            }
        },
    );
    match distances.iter().position(|distance| !distance.is_finite()) {
        Some(row) => Err(NotFinite { row }),
        None => Ok(distances.into_iter().map(|d| d.max(0.0)).collect()),
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

/// Grows with `k`, so that the sums of all tasks stay small beside the rows.
pub(super) fn task_rows(k: usize) -> usize {
    TASK_ROWS.max((4 * k).next_multiple_of(TILE))
}

/// The sums of one task.
#[derive(Default)]
struct Part {
    sums: Vec<f32>,
    counts: Vec<u32>,
    squares: f64,
    inertia: f64,
    farthest: (f32, usize),
    failed: Option<NotFinite>,
}

impl Part {
    fn fill(
        &mut self,
        rows: &[f32],
        dim: usize,
        k: usize,
        nearest: &Nearest,
        scratch: &mut Scratch,
        first: usize,
    ) {
        self.sums.clear();
        self.sums.resize(k * dim, 0.0);
        self.counts.clear();
        self.counts.resize(k, 0);
        (self.squares, self.inertia) = (0.0, 0.0);
        self.farthest = (f32::NEG_INFINITY, first);
        self.failed = None;
        for (at, tile) in rows.chunks(TILE * dim).enumerate() {
            vectorized(
                #[inline(always)]
                || {
                    nearest.place(tile, scratch);
                    self.absorb(tile, dim, scratch, first + at * TILE);
                },
            );
        }
    }

    #[inline(always)]
    fn absorb(&mut self, tile: &[f32], dim: usize, scratch: &Scratch, first: usize) {
        let places = scratch.ids.iter().zip(&scratch.best);
        for (at, (row, (&id, &best))) in tile.chunks_exact(dim).zip(places).enumerate() {
            let id = id as usize;
            let square = add(&mut self.sums[id * dim..(id + 1) * dim], row);
            let distance = square - 2.0 * best;
            if !distance.is_finite() {
                self.failed.get_or_insert(NotFinite { row: first + at });
                return;
            }
            // Rounding can take it below zero where a row is a centre.
            let distance = distance.max(0.0);
            self.counts[id] += 1;
            self.squares += f64::from(square);
            self.inertia += f64::from(distance);
            if distance > self.farthest.0 {
                self.farthest = (distance, first + at);
            }
        }
    }
}

/// `sum += row`; returns the row's squared length.
#[inline(always)]
fn add(sum: &mut [f32], row: &[f32]) -> f32 {
    let ((sums, sum_rest), (rows, row_rest)) =
        (sum.as_chunks_mut::<LANES>(), row.as_chunks::<LANES>());
    let mut squares = [0.0_f32; LANES];
    for (sum, row) in sums.iter_mut().zip(rows) {
        // Read before written: the compiler need not know that they are apart.
        let mut sums = *sum;
        for lane in 0..LANES {
            sums[lane] += row[lane];
            squares[lane] += row[lane] * row[lane];
        }
        *sum = sums;
    }
    for ((sum, value), square) in sum_rest.iter_mut().zip(row_rest).zip(&mut squares) {
        *sum += value;
        *square += value * value;
    }
    total(&squares)
}

fn merged(parts: &[Part], k: usize, dim: usize) -> Result<Step, NotFinite> {
    if let Some(failed) = parts.iter().find_map(|part| part.failed) {
        return Err(failed);
    }
    let mut sums = vec![0.0; k * dim];
    sums.par_chunks_mut(dim).enumerate().for_each(|(id, sum)| {
        for part in parts.iter().filter(|part| part.counts[id] > 0) {
            let add = &part.sums[id * dim..(id + 1) * dim];
            sum.iter_mut()
                .zip(add)
                .for_each(|(s, v)| *s += f64::from(*v));
        }
    });
    let count = |id: usize| parts.iter().map(|part| u64::from(part.counts[id])).sum();
    Ok(Step {
        sums,
        counts: (0..k).map(count).collect(),
        inertia: parts.iter().map(|part| part.inertia).sum(),
        squares: parts.iter().map(|part| part.squares).sum(),
        farthest: parts.iter().map(|part| part.farthest).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        let at = |i: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 256.0 - 2.0;
        (0..count).map(at).collect()
    }

    /// Placed and summed row by row in f64.
    fn plainly(rows: &[f32], dim: usize, centers: &[f32]) -> (Vec<f64>, Vec<u64>, f64) {
        let k = centers.len() / dim;
        let (mut sums, mut counts, mut inertia) = (vec![0.0; k * dim], vec![0; k], 0.0);
        for row in rows.chunks(dim) {
            let distance = |c: &[f32]| -> f64 {
                let each = row.iter().zip(c);
                each.map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2))
                    .sum()
            };
            let distances: Vec<f64> = centers.chunks(dim).map(distance).collect();
            let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
            let id = distances.iter().position(|d| *d == least).unwrap();
            counts[id] += 1;
            inertia += least;
            let sum = sums[id * dim..].iter_mut().zip(row);
            sum.for_each(|(s, x)| *s += f64::from(*x));
        }
        (sums, counts, inertia)
    }

    #[test]
    fn a_step_is_the_plain_loops_one() {
        // Centres by whole vectors, by dot products, by both; a last tile and a last task that are not full.
        for (n, dim, k) in [
            (1, 1, 1),
            (5, 3, 2),
            (47, 16, 16),
            (49, 17, 18),
            (100, 5, 23),
            (5000, 48, 50),
            (300, 33, 100),
        ] {
            let (rows, centers) = (numbers(n * dim, 1), numbers(k * dim, 2));
            let found = Stepper::new().step(&rows, dim, &centers).unwrap();
            let (sums, counts, inertia) = plainly(&rows, dim, &centers);
            assert_eq!(found.counts, counts, "{n}x{dim}, k {k}");
            let error = |(f, e): (&f64, &f64)| (f - e).abs() / (1.0 + e.abs());
            let worst = found.sums.iter().zip(&sums).map(error).fold(0.0, f64::max);
            assert!(worst < 1e-5, "{n}x{dim}, k {k}: sums differ by {worst}");
            let error = (found.inertia - inertia).abs();
            assert!(
                error <= 1e-4 * inertia + 1e-4,
                "{} {inertia}",
                found.inertia
            );
        }
    }

    #[test]
    fn buffers_used_again_change_nothing() {
        let (large, small) = (numbers(9000 * 8, 1), numbers(70 * 8, 3));
        let centers = numbers(20 * 8, 2);
        let mut used = Stepper::new();
        used.step(&large, 8, &centers).unwrap();
        let again = used.step(&small, 8, &centers[..5 * 8]).unwrap();
        let fresh = Stepper::new().step(&small, 8, &centers[..5 * 8]).unwrap();
        assert_eq!(again, fresh);
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        let (rows, centers) = (numbers(10_000 * 24, 1), numbers(37 * 24, 2));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| Stepper::new().step(&rows, 24, &centers).unwrap())
        };
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn a_row_is_placed_the_same_in_any_batch() {
        let (rows, centers) = (numbers(500 * 40, 1), numbers(50 * 40, 2));
        let nearest = Nearest::euclidean(&centers, 40);
        let ids = |rows: &[f32]| {
            let (mut ids, mut best) = (vec![0; rows.len() / 40], Vec::new());
            let mut scratch = nearest.scratch();
            for (ids, rows) in ids.chunks_mut(TILE).zip(rows.chunks(TILE * 40)) {
                assert_eq!(nearest.ids(rows, ids, &mut scratch), None);
                best.extend_from_slice(&scratch.best[..ids.len()]);
            }
            (ids, best)
        };
        let (together, scores) = ids(&rows);
        for at in [0, 7, 47, 48, 499] {
            let (alone, score) = ids(&rows[at * 40..(at + 1) * 40]);
            assert_eq!(
                (alone[0], score[0].to_bits()),
                (together[at], scores[at].to_bits())
            );
        }
    }

    #[test]
    fn the_lower_index_wins_a_tie() {
        let centers: Vec<f32> = [[1.0, 0.0]; 40].concat();
        let found = Stepper::new()
            .step(&[0.5, 0.5, -3.0, 2.0], 2, &centers)
            .unwrap();
        assert_eq!(found.counts[0], 2);
    }

    #[test]
    fn what_is_not_finite_is_refused_by_its_row() {
        for (bad, at) in [
            (f32::NAN, 0),
            (f32::INFINITY, 4999),
            (f32::NEG_INFINITY, 2100),
            (1e30, 60),
        ] {
            let mut rows = numbers(5000 * 7, 1);
            rows[at * 7 + 3] = bad;
            rows[4999 * 7] = f32::NAN;
            let mut stepper = Stepper::new();
            let found = stepper.step(&rows, 7, &numbers(19 * 7, 2)).unwrap_err();
            assert_eq!(found, NotFinite { row: at }, "{bad}");
        }
    }
}
