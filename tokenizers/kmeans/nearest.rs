//! The best centre of every row: one matrix product per tile of rows into a buffer that is used again, then the largest
//! score in vector code. Assignment and both fits go through here.
//!
//! `|x - c|` is smallest where `x.c - |c|^2 / 2` is largest, so a centre is its numbers and a bias. The product has
//! centres as vector lanes: whole vectors of them, packed once, and the few that fill no vector as dot products.

use rayon::prelude::*;
use tessera_models::kernels::product::{Mat, MatMut, product_into};
use tessera_models::kernels::simd::{LANES, vectorized};

/// Rows per matrix product. A constant, and the last tile is filled up with zeros: a row gets the same score alone, in any
/// batch and on any number of threads. A tile stays in the second cache with its scores; up to 48 rows the `gemm` crate
/// reads packed centres in place on AVX-512, where it would copy them for every tile.
pub const TILE: usize = 48;
/// So many centres that fill no vector are cheaper as dot products than as a vector of zeros.
const MAX_DOTS: usize = 8;
/// Rows per task of an assignment.
const TASK: usize = 16 * TILE;
/// Destination sizes up to this the `gemm` crate computes by dot products, which need no packing.
const DOT_CELLS: usize = 256;

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
    /// `[dim, whole]`: transposed, zeros after the last centre.
    packed: Vec<f32>,
    whole: usize,
    /// `[rest, dim]`.
    dots: Vec<f32>,
    rest: usize,
    /// Of every lane; negative infinity where there is no centre.
    bias: Vec<f32>,
}

/// Buffers for one tile at a time.
pub struct Scratch {
    scores: Vec<f32>,
    padded: Vec<f32>,
    /// Of each row of the last tile, its centre.
    pub ids: Vec<u32>,
    /// Of each row of the last tile, `x.c + bias` of its centre.
    pub best: Vec<f32>,
}

impl Nearest {
    /// `centers` `[k, dim]` with a bias each.
    pub fn new(centers: &[f32], dim: usize, bias: &[f32]) -> Self {
        let k = bias.len();
        assert_eq!(centers.len(), k * dim, "{k} centres of {dim}");
        let rest = if k % LANES <= MAX_DOTS { k % LANES } else { 0 };
        let whole = (k - rest).next_multiple_of(LANES);
        let mut packed = vec![0.0; dim * whole];
        for (lane, center) in centers.chunks_exact(dim).take(k - rest).enumerate() {
            for (row, value) in packed.chunks_exact_mut(whole).zip(center) {
                row[lane] = *value;
            }
        }
        let mut lanes = vec![f32::NEG_INFINITY; (whole + rest).next_multiple_of(LANES)];
        lanes[..k].copy_from_slice(bias);
        Self {
            dim,
            packed,
            whole,
            dots: centers[(k - rest) * dim..].to_vec(),
            rest,
            bias: lanes,
        }
    }

    /// `centers` by Euclidean distance.
    pub fn euclidean(centers: &[f32], dim: usize) -> Self {
        let norm = |c: &[f32]| -0.5 * c.iter().map(|v| v * v).sum::<f32>();
        let bias: Vec<f32> = centers.chunks_exact(dim).map(norm).collect();
        Self::new(centers, dim, &bias)
    }

    /// Buffers for [`place`](Self::place).
    pub fn scratch(&self) -> Scratch {
        Scratch {
            scores: vec![0.0; TILE * self.bias.len()],
            padded: Vec::new(),
            ids: vec![0; TILE],
            best: vec![0.0; TILE],
        }
    }

    /// The products of up to [`TILE`] rows with all centres, into the buffer; returns the first.
    pub fn products(&self, rows: &[f32], scratch: &mut Scratch) -> f32 {
        if rows.len() == TILE * self.dim {
            self.multiply(rows, &mut scratch.scores);
        } else {
            scratch.padded.clear();
            scratch.padded.extend_from_slice(rows);
            scratch.padded.resize(TILE * self.dim, 0.0);
            self.multiply(&scratch.padded, &mut scratch.scores);
        }
        scratch.scores[0]
    }

    fn multiply(&self, tile: &[f32], scores: &mut [f32]) {
        let (dim, width) = (self.dim, self.bias.len());
        if self.whole > 0 {
            let out = MatMut::strided(scores, TILE, self.whole, width);
            let centers = Mat::new(&self.packed, dim, self.whole);
            product_into(out, 1.0, Mat::new(tile, TILE, dim), centers);
        }
        if self.rest > 0 {
            let fits = TILE * self.rest <= DOT_CELLS;
            let count = if fits { TILE } else { TILE / 2 };
            let centers = Mat::new(&self.dots, self.rest, dim).t();
            for first in (0..TILE).step_by(count) {
                let out = &mut scores[first * width + self.whole..];
                let out = MatMut::strided(out, count, self.rest, width);
                let rows = Mat::new(&tile[first * dim..], count, dim);
                product_into(out, 1.0, rows, centers);
            }
        }
    }

    /// Centre and score of up to [`TILE`] rows, into `scratch.ids` and `scratch.best`; the lower index wins a tie. A row
    /// that cannot be placed gets a score that is not finite. Call it in vector code.
    #[inline(always)]
    pub fn place(&self, rows: &[f32], scratch: &mut Scratch) {
        self.products(rows, scratch);
        let scores = scratch.scores.chunks_exact(self.bias.len());
        let places = scratch.ids.iter_mut().zip(&mut scratch.best);
        for (scores, (id, best)) in scores.zip(places) {
            (*best, *id) = largest(scores, &self.bias);
        }
    }
}

impl Nearest {
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
        let tiles = ids.chunks_mut(TILE).zip(rows.chunks(TILE * self.dim));
        for (at, (ids, tile)) in tiles.enumerate() {
            vectorized(
                #[inline(always)]
                || self.place(tile, scratch),
            );
            ids.copy_from_slice(&scratch.ids[..ids.len()]);
            let bad = scratch.best[..ids.len()]
                .iter()
                .position(|best| !best.is_finite());
            failed = failed.or(bad.map(|row| at * TILE + row));
        }
        failed
    }
}

/// The largest `score + bias` and its lowest index. What is NaN never wins.
#[inline(always)]
fn largest(scores: &[f32], bias: &[f32]) -> (f32, u32) {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut group_of = [0_u32; LANES];
    let groups = scores
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(bias.as_chunks::<LANES>().0);
    for (group, (scores, bias)) in groups.enumerate() {
        for lane in 0..LANES {
            let value = scores[lane] + bias[lane];
            let wins = value > best[lane];
            best[lane] = if wins { value } else { best[lane] };
            group_of[lane] = if wins { group as u32 } else { group_of[lane] };
        }
    }
    let top = fold(best, |a, b| if b > a { b } else { a });
    let mut index = [u32::MAX; LANES];
    for lane in 0..LANES {
        let at = group_of[lane] * LANES as u32 + lane as u32;
        index[lane] = if best[lane] == top { at } else { u32::MAX };
    }
    (top, fold(index, |a, b| if b < a { b } else { a }))
}

#[inline(always)]
fn fold<T: Copy>(mut lanes: [T; LANES], choose: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = choose(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}
