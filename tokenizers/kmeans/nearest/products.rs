//! Products of a tile of rows with all centres in f32. Centres are vector lanes, packed once; the few that do not fill a vector are
//! computed as dot products.

use tessera_kernels::ops::kmeans::bf16::{ROWS, Tops};
use tessera_kernels::product::{Mat, MatMut, product_into};
use tessera_kernels::simd::LANES;

/// Rows per matrix product. It is constant and the last tile is padded with zeros, so that a row gets the same score in any batch and
/// on any number of threads. A tile and its scores fit into the L2 cache. In f32 on AVX-512, the `gemm` crate reads packed centres in
/// place up to 48 rows; beyond that it copies them for every tile.
pub const TILE: usize = ROWS;
/// Up to this number of remaining centres, dot products are cheaper than a padded vector.
const MAX_DOTS: usize = 8;
/// Up to this result size the `gemm` crate computes dot products, which need no packing.
const DOT_CELLS: usize = 256;

/// Centres prepared for f32 products.
pub struct Products {
    dim: usize,
    /// `[dim, whole]`, transposed, zero-padded after the last centre.
    packed: Vec<f32>,
    whole: usize,
    /// `[rest, dim]`.
    dots: Vec<f32>,
    rest: usize,
    /// Bias of every lane, `[width]`; negative infinity for lanes without a centre.
    bias: Vec<f32>,
}

impl Products {
    /// Packs `centers` `[k, dim]` with a bias each.
    pub fn new(centers: &[f32], dim: usize, bias: &[f32]) -> Self {
        let k = bias.len();
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

    /// Returns the number of scores per row.
    pub fn width(&self) -> usize {
        self.bias.len()
    }

    /// Writes the products of up to [`TILE`] rows with all centres, `[TILE, width]`. `padded` is a buffer for an incomplete tile.
    pub fn of(&self, rows: &[f32], padded: &mut Vec<f32>, scores: &mut [f32]) {
        if rows.len() == TILE * self.dim {
            self.multiply(rows, scores);
        } else {
            padded.clear();
            padded.extend_from_slice(rows);
            padded.resize(TILE * self.dim, 0.0);
            self.multiply(padded, scores);
        }
    }

    fn multiply(&self, tile: &[f32], scores: &mut [f32]) {
        let (dim, width) = (self.dim, self.width());
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

    /// Returns the score of a row of the tile with a centre.
    #[inline(always)]
    pub fn score(&self, scores: &[f32], row: usize, id: usize) -> f32 {
        scores[row * self.width() + id] + self.bias[id]
    }

    /// Returns the two best scores of every row.
    #[inline(always)]
    pub fn tops(&self, scores: &[f32]) -> Tops {
        let mut tops = Tops::default();
        for (row, scores) in scores.chunks_exact(self.width()).enumerate() {
            let (best, second, id) = largest(scores, &self.bias);
            (tops.best[row], tops.second[row], tops.ids[row]) = (best, second, id);
        }
        tops
    }
}

/// Returns the largest `score + bias`, the second largest (equal in case of a tie), and the lowest index of the largest. NaN never
/// wins.
#[inline(always)]
fn largest(scores: &[f32], bias: &[f32]) -> (f32, f32, u32) {
    let (mut best, mut second) = ([f32::NEG_INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut group_of = [0_u32; LANES];
    let groups = scores.as_chunks::<LANES>().0.iter();
    let groups = groups.zip(bias.as_chunks::<LANES>().0);
    for (group, (scores, bias)) in groups.enumerate() {
        for lane in 0..LANES {
            let value = scores[lane] + bias[lane];
            let wins = value > best[lane];
            let loser = if wins { best[lane] } else { value };
            second[lane] = if loser > second[lane] {
                loser
            } else {
                second[lane]
            };
            best[lane] = if wins { value } else { best[lane] };
            group_of[lane] = if wins { group as u32 } else { group_of[lane] };
        }
    }
    let larger = |a, b| if b > a { b } else { a };
    let top = fold(best, larger);
    let mut index = [u32::MAX; LANES];
    for lane in 0..LANES {
        let at = group_of[lane] * LANES as u32 + lane as u32;
        index[lane] = if best[lane] == top { at } else { u32::MAX };
    }
    let id = fold(index, |a, b| if b < a { b } else { a });
    // The runner-up is the second of the winner's lane or the best of another lane.
    for lane in 0..LANES {
        second[lane] = if lane as u32 == id % LANES as u32 {
            second[lane]
        } else {
            best[lane]
        };
    }
    (top, fold(second, larger), id)
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
