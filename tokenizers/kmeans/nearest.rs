//! The best centre of every row: one matrix product per tile of rows into a buffer that is used again, then the two largest
//! scores in vector code. Assignment and both fits go through here.
//!
//! `|x - c|` is smallest where `x.c - |c|^2 / 2` is largest, so a centre is its numbers and a bias. The centre of a row is
//! that of the largest `x.c + bias` in f32, summed in a fixed order, on any machine: products only find it. They are made in
//! bf16 where the machine is twice as fast at it and else in f32, and are wrong by a bound; where the two largest are nearer
//! together than that, all that might win are scored again.

mod halves;
mod products;

use rayon::prelude::*;
use tessera_kernels::ops::kmeans::bf16::{Tile, Tops};
use tessera_kernels::simd::{pairs, vectorized};

use halves::{Halves, largest_of};
pub(super) use products::{Products, TILE};

/// Rows per task of an assignment.
const TASK: usize = 16 * TILE;

/// Rows that k-means cannot place: a value is NaN, infinite or too large for products in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row} holds a value that is not a finite number, or too large for products in f32")]
pub struct NotFinite {
    /// The first such row.
    pub row: usize,
}

/// Centres, made ready for products.
pub struct Nearest {
    dim: usize,
    /// `[k, dim]`.
    centers: Vec<f32>,
    /// `[k]`
    bias: Vec<f32>,
    scores: Scores,
    margin: Margin,
}

/// What finds the centres that might win.
enum Scores {
    Halves(Halves),
    Products(Products),
}

/// How far a score is from the one it stands for, at most: by the length of its row.
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
    /// `centers` `[k, dim]` with a bias each.
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

    /// `centers` by Euclidean distance.
    pub fn euclidean(centers: &[f32], dim: usize) -> Self {
        Self::new(centers, dim, &euclidean_bias(centers, dim))
    }

    /// Buffers for [`place`](Self::place).
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

    /// Calls `each` with every one of up to [`TILE`] rows, in order: its position and its centre (the lower index wins a tie), or
    /// none where it cannot be placed. Meanwhile `ahead`, the rows that come next, may be fetched near the core.
    #[inline(always)]
    pub fn place(
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

    /// The centre of a row: looks again at those whose score is not below `least`, if there are two.
    #[inline(always)]
    fn settle(
        &self,
        tops: &Tops,
        row: usize,
        x: &[f32],
        least: f32,
        score: impl Fn(usize) -> f32,
    ) -> Option<u32> {
        // False too where a number is NaN, as it is of rows that cannot be placed.
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

    /// The score that decides.
    fn exact(&self, x: &[f32], id: usize) -> f32 {
        pairs::dot(x, &self.centers[id * self.dim..][..self.dim]) + self.bias[id]
    }

    /// The centre of each row of `values`, `[rows, dim]`, on the current rayon pool; the lower index wins a tie.
    ///
    /// # Errors
    /// [`NotFinite`] when a row cannot be placed.
    pub fn assign(&self, values: &[f32]) -> Result<Vec<u32>, NotFinite> {
        let mut ids = vec![0; values.len() / self.dim];
        let tasks = ids.par_chunks_mut(TASK);
        let tasks = tasks.zip(values.par_chunks(TASK * self.dim));
        let failed = tasks.map_init(
            || self.scratch(),
            |scratch, (ids, rows)| self.ids(rows, ids, scratch),
        );
        // Every task runs, so that the error is the first row's and not the fastest thread's.
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

    /// The centre of each row; the first row that cannot be placed, if one cannot.
    pub fn ids(&self, rows: &[f32], ids: &mut [u32], scratch: &mut Scratch) -> Option<usize> {
        let mut failed = None;
        let tiles = ids.chunks_mut(TILE).zip(tiles(rows, self.dim));
        for (at, (ids, (tile, ahead))) in tiles.enumerate() {
            self.place(tile, ahead, scratch, |row, _, id| match id {
                Some(id) => ids[row] = id,
                None => failed = failed.or(Some(at * TILE + row)),
            });
        }
        failed
    }
}

/// Tiles of `rows`, each with the one after it.
pub fn tiles(rows: &[f32], dim: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
    let ahead = rows.chunks(TILE * dim).skip(1);
    rows.chunks(TILE * dim)
        .zip(ahead.chain(std::iter::once(&[][..])))
}

/// `-|c|^2 / 2` of each centre.
pub(super) fn euclidean_bias(centers: &[f32], dim: usize) -> Vec<f32> {
    let norm = |c: &[f32]| -0.5 * c.iter().map(|v| v * v).sum::<f32>();
    centers.chunks_exact(dim).map(norm).collect()
}

impl Margin {
    /// Bounds from the rounding of every operation (Higham 2002, section 3.1), `unit` being twice f32's.
    fn of(centers: &[f32], dim: usize, bias: &[f32], scores: &Scores) -> Self {
        let unit = 1.0 / f64::from(1 << 23);
        let length = |c: &[f32]| c.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let longest = centers.chunks_exact(dim).map(length).fold(0.0, f64::max);
        // Of the score that decides: as many roundings as it has one after the other.
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
        // A little more: for a row's length, which is a rounded one's, and for what is computed from these.
        Self {
            slope: (1.01 * (slope + exact + 4.0 * unit * longest)) as f32,
            offset: (1.01 * (offset + 4.0 * unit * biases)) as f32,
        }
    }

    /// What a centre must score to win over one that scores `best`, the row's squared length being `square`.
    #[inline(always)]
    fn below(&self, best: f32, square: f32) -> f32 {
        best - 2.0 * (self.slope * square.sqrt() + self.offset)
    }
}

#[cfg(test)]
mod tests;
