//! Finds the best centre of every row: one matrix product per tile of rows, then the two largest scores in vector code. Assignment
//! and both fits use this.
//!
//! `|x - c|` is smallest when `x.c - |c|^2 / 2` is largest, so a centre consists of its values and a bias. The centre of a row is the
//! one with the largest `x.c + bias` in f32, summed in a fixed order, on every machine. Matrix products only find candidates. They
//! use bf16 if that is twice as fast on the machine, else f32, and their error has a known bound. If the two largest scores differ by
//! less than the bound, all possible winners are scored again exactly.

mod halves;
mod products;

use rayon::prelude::*;
use tessera_kernels::ops::kmeans::bf16::{Tile, Tops};
use tessera_kernels::simd::{pairs, vectorized};

use halves::{Halves, largest_of};
pub(super) use products::{Products, TILE};

/// Rows per task of an assignment.
const TASK: usize = 16 * TILE;

/// K-means cannot assign a row, because a value is NaN, infinite or too large for products in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row} has a value that is not finite or too large for products in f32")]
pub struct NotFinite {
    /// Index of the first such row.
    pub row: usize,
}

/// Centres prepared for products.
pub struct Nearest {
    dim: usize,
    /// `[k, dim]`.
    centers: Vec<f32>,
    /// `[k]`.
    bias: Vec<f32>,
    scores: Scores,
    margin: Margin,
}

/// Matrix products that find the possible winners: bf16 or f32.
enum Scores {
    Halves(Halves),
    Products(Products),
}

/// Bound of the error of a score: `slope` times the length of its row, plus `offset`.
#[derive(Clone, Copy, Debug)]
struct Margin {
    slope: f32,
    offset: f32,
}

/// Buffers for one tile at a time.
pub struct Scratch {
    scores: Vec<f32>,
    padded: Vec<f32>,
    tile: Option<Tile>,
}

impl Nearest {
    /// Prepares `centers` `[k, dim]` with a bias each.
    pub fn new(centers: &[f32], dim: usize, bias: &[f32]) -> Self {
        let scores = match Halves::new(centers, dim, bias) {
            Some(halves) => Scores::Halves(halves),
            None => Scores::Products(Products::new(centers, dim, bias)),
        };
        Self::with(centers, dim, bias, scores)
    }

    fn with(centers: &[f32], dim: usize, bias: &[f32], scores: Scores) -> Self {
        assert_eq!(centers.len(), bias.len() * dim, "centres of {dim}");
        Self {
            dim,
            centers: centers.to_vec(),
            bias: bias.to_vec(),
            margin: Margin::of(centers, dim, bias, &scores),
            scores,
        }
    }

    /// Prepares `centers` for the Euclidean distance.
    pub fn euclidean(centers: &[f32], dim: usize) -> Self {
        Self::new(centers, dim, &euclidean_bias(centers, dim))
    }

    /// Returns buffers for [`assign_tile`](Self::assign_tile).
    pub fn scratch(&self) -> Scratch {
        let (width, tile) = match &self.scores {
            Scores::Halves(halves) => (self.bias.len(), Some(halves.tile())),
            Scores::Products(products) => (products.width(), None),
        };
        Scratch {
            scores: vec![0.0; TILE * width],
            padded: Vec::new(),
            tile,
        }
    }

    /// Calls `each` with every one of up to [`TILE`] rows in order: its position, its values, and its centre (the lower index wins a
    /// tie), or `None` if it cannot be assigned. May prefetch `ahead`, the next rows.
    #[inline(always)]
    pub fn assign_tile(
        &self,
        rows: &[f32],
        ahead: &[f32],
        scratch: &mut Scratch,
        mut each: impl FnMut(usize, &[f32], Option<u32>),
    ) {
        let Scratch {
            scores,
            padded,
            tile,
        } = scratch;
        let rows_of = rows.chunks_exact(self.dim).enumerate();
        match (&self.scores, tile) {
            (Scores::Halves(halves), Some(tile)) => {
                let tops = halves.of(rows, ahead, tile, scores);
                for (row, x) in rows_of {
                    let least = self.margin.below(tops.best[row], tile.squares[row]);
                    let score = |id| scores[id * TILE + row];
                    each(row, x, self.settle(&tops, row, x, least, score));
                }
            }
            (Scores::Products(products), _) => {
                products.of(rows, padded, scores);
                let tops = vectorized(
                    #[inline(always)]
                    || products.tops(scores),
                );
                for (row, x) in rows_of {
                    let least = self.margin.below(tops.best[row], pairs::dot(x, x));
                    let score = |id| products.score(scores, row, id);
                    each(row, x, self.settle(&tops, row, x, least, score));
                }
            }
            (Scores::Halves(_), None) => unreachable!("scratch of other centres"),
        }
    }

    /// Returns the centre of a row. If two scores are at least `least`, scores all such centres again exactly.
    #[inline(always)]
    fn settle(
        &self,
        tops: &Tops,
        row: usize,
        x: &[f32],
        least: f32,
        score: impl Fn(usize) -> f32,
    ) -> Option<u32> {
        // Also false if a score is NaN, as for rows that cannot be assigned.
        if tops.second[row] < least {
            return Some(tops.ids[row]);
        }
        let (mut best, mut found) = (f32::NEG_INFINITY, 0);
        for id in 0..self.bias.len() {
            if score(id) < least {
                continue;
            }
            let exact = self.exact(x, id);
            if exact > best {
                (best, found) = (exact, id as u32);
            }
        }
        best.is_finite().then_some(found)
    }

    /// Returns the exact score, which decides.
    fn exact(&self, x: &[f32], id: usize) -> f32 {
        pairs::dot(x, &self.centers[id * self.dim..][..self.dim]) + self.bias[id]
    }

    /// Returns the centre of each row of `values`, `[rows, dim]`. Runs on the current rayon pool; the lower index wins a tie.
    ///
    /// # Errors
    /// [`NotFinite`] if a row cannot be assigned.
    pub fn assign(&self, values: &[f32]) -> Result<Vec<u32>, NotFinite> {
        let mut ids = vec![0; values.len() / self.dim];
        let tasks = ids.par_chunks_mut(TASK);
        let tasks = tasks.zip(values.par_chunks(TASK * self.dim));
        let failed = tasks.map_init(
            || self.scratch(),
            |scratch, (ids, rows)| self.ids(rows, ids, scratch),
        );
        // Every task runs, so that the error names the first row on any number of threads.
        let failed: Vec<Option<usize>> = failed.collect();
        let first = failed.iter().enumerate();
        match first
            .filter_map(|(task, at)| Some(task * TASK + (*at)?))
            .next()
        {
            Some(row) => Err(NotFinite { row }),
            None => Ok(ids),
        }
    }

    /// Writes the centre of each row to `ids`. Returns the first row that cannot be assigned, if any.
    pub fn ids(&self, rows: &[f32], ids: &mut [u32], scratch: &mut Scratch) -> Option<usize> {
        let mut failed = None;
        let tiles = ids.chunks_mut(TILE).zip(tiles(rows, self.dim));
        for (at, (ids, (tile, ahead))) in tiles.enumerate() {
            self.assign_tile(tile, ahead, scratch, |row, _, id| match id {
                Some(id) => ids[row] = id,
                None => failed = failed.or(Some(at * TILE + row)),
            });
        }
        failed
    }
}

/// Returns the tiles of `rows`, each with the next one.
pub fn tiles(rows: &[f32], dim: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
    let ahead = rows.chunks(TILE * dim).skip(1);
    rows.chunks(TILE * dim)
        .zip(ahead.chain(std::iter::once(&[][..])))
}

/// Returns `-|c|^2 / 2` of each centre.
pub(super) fn euclidean_bias(centers: &[f32], dim: usize) -> Vec<f32> {
    let norm = |c: &[f32]| -0.5 * c.iter().map(|v| v * v).sum::<f32>();
    centers.chunks_exact(dim).map(norm).collect()
}

impl Margin {
    /// Computes the bound from the rounding of every operation (Higham 2002, section 3.1). `unit` is twice the unit roundoff of f32.
    fn of(centers: &[f32], dim: usize, bias: &[f32], scores: &Scores) -> Self {
        let unit = 1.0 / f64::from(1 << 23);
        let length = |c: &[f32]| c.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let longest = centers.chunks_exact(dim).map(length).fold(0.0, f64::max);
        // Error of the exact score: its number of successive roundings.
        let exact = (dim / pairs::WIDE + 12) as f64 * unit * longest;
        let biases = largest_of(bias);
        let (slope, offset) = match scores {
            Scores::Products(_) => (dim as f64 * unit * longest, 0.0),
            Scores::Halves(halves) => {
                let error = halves.error();
                let shifted = (exact + 4.0 * unit * longest) * halves.shift;
                let bias = 4.0 * unit * halves.largest_bias();
                (
                    error.slope + 4.0 * unit * error.longest,
                    error.offset + shifted + bias,
                )
            }
        };
        // The extra 1 % covers the rounding of a row's length and of the bound itself.
        Self {
            slope: (1.01 * (slope + exact + 4.0 * unit * longest)) as f32,
            offset: (1.01 * (offset + 4.0 * unit * biases)) as f32,
        }
    }

    /// Returns the lowest score of a possible winner, given the largest score `best` and the row's squared length `square`.
    #[inline(always)]
    fn below(&self, best: f32, square: f32) -> f32 {
        best - 2.0 * (self.slope * square.sqrt() + self.offset)
    }
}

#[cfg(test)]
mod tests;
