//! Processes one head of one image at a time, in tiles of at most [`TILE`] queries whose weights fit the L2 cache.

use crate::ops::bias_gelu::exp;
use crate::product::{Mat, MatMut, add_product, product_into};
use crate::simd::{LANES, dot, largest, total, vectorized};

/// Maximum number of queries per tile. Tiles have nearly equal sizes, because products of a few rows are slow.
const TILE: usize = 256;

/// Sizes of an attention call.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Number of images.
    pub batch: usize,
    /// Tokens per image.
    pub tokens: usize,
    /// Number of heads.
    pub heads: usize,
    /// Numbers per head.
    pub size: usize,
}

impl Sizes {
    fn width(self) -> usize {
        self.heads * self.size
    }

    fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// Iterates over images and heads: offsets in `qkv` and in the output.
    fn each(self) -> impl Iterator<Item = (usize, usize)> {
        let heads = move |image: usize| (0..self.heads).map(move |head| (image, head));
        (0..self.batch).flat_map(heads).map(move |(image, head)| {
            let (tokens, width) = (image * self.tokens, self.width());
            let column = head * self.size;
            (tokens * 3 * width + column, tokens * width + column)
        })
    }

    /// Returns queries (0), keys (1) or values (2) of the head at offset `at`.
    fn part(self, qkv: &[f32], at: usize, which: usize) -> Mat<'_> {
        self.rows(qkv, at, which, 0, self.tokens)
    }

    fn rows(self, qkv: &[f32], at: usize, which: usize, first: usize, count: usize) -> Mat<'_> {
        let (width, stride) = (self.width(), 3 * self.width());
        let start = at + which * width + first * stride;
        Mat::strided(&qkv[start..], count, self.size, stride)
    }

    fn rows_mut(
        self,
        qkv: &mut [f32],
        at: usize,
        which: usize,
        first: usize,
        count: usize,
    ) -> MatMut<'_> {
        let (width, stride) = (self.width(), 3 * self.width());
        let start = at + which * width + first * stride;
        MatMut::strided(&mut qkv[start..], count, self.size, stride)
    }

    /// Returns the number of queries per tile, except the last.
    fn tile(self) -> usize {
        self.tokens
            .div_ceil(self.tokens.div_ceil(TILE).max(1))
            .max(1)
    }

    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        let tile = self.tile();
        let starts = (0..self.tokens).step_by(tile);
        starts.map(move |first| (first, tile.min(self.tokens - first)))
    }

    fn tile_len(self) -> usize {
        self.tile() * self.tokens
    }

    /// Computes the weights of `count` queries, starting at `first`, into `tile` `[count, tokens]`.
    fn weights(self, qkv: &[f32], at: usize, (first, count): (usize, usize), tile: &mut [f32]) {
        let keys = self.part(qkv, at, 1).t();
        let queries = self.rows(qkv, at, 0, first, count);
        product_into(
            MatMut::new(tile, count, self.tokens),
            self.scale(),
            queries,
            keys,
        );
        vectorized(
            #[inline(always)]
            || {
                for row in tile.chunks_exact_mut(self.tokens) {
                    softmax(row);
                }
            },
        );
    }
}

/// Computes the output `[batch, tokens, heads * size]` of `qkv` `[batch, tokens, 3 * heads * size]`.
pub fn forward(qkv: &[f32], sizes: Sizes) -> Vec<f32> {
    let (tokens, width) = (sizes.tokens, sizes.width());
    let mut out = vec![0.0; sizes.batch * tokens * width];
    let mut weights = vec![0.0; sizes.tile_len()];
    for (at, to) in sizes.each() {
        for (first, count) in sizes.tiles() {
            let weights = &mut weights[..count * tokens];
            sizes.weights(qkv, at, (first, count), weights);
            let mixed = &mut out[to + first * width..];
            product_into(
                MatMut::strided(mixed, count, sizes.size, width),
                1.0,
                Mat::new(weights, count, tokens),
                sizes.part(qkv, at, 2),
            );
        }
    }
    out
}

/// Returns the gradient of `qkv` for the output's gradient `grad`. With weights P and output O:
/// `dV = P^T dO`, `dS = P (dO V^T - rowsum(P dO V^T))`, `dQ = dS K / sqrt(size)`, `dK = dS^T Q / sqrt(size)`.
pub fn backward(qkv: &[f32], grad: &[f32], sizes: Sizes) -> Vec<f32> {
    let (tokens, width, scale) = (sizes.tokens, sizes.width(), sizes.scale());
    let mut out = vec![0.0; qkv.len()];
    let mut weights = vec![0.0; sizes.tile_len()];
    let mut slopes = vec![0.0; sizes.tile_len()];
    for (at, to) in sizes.each() {
        for (first, count) in sizes.tiles() {
            let weights = &mut weights[..count * tokens];
            let slopes = &mut slopes[..count * tokens];
            sizes.weights(qkv, at, (first, count), weights);
            let grad = Mat::strided(&grad[to + first * width..], count, sizes.size, width);
            let values = sizes.part(qkv, at, 2).t();
            product_into(MatMut::new(slopes, count, tokens), 1.0, grad, values);
            let by_value = Mat::new(weights, count, tokens).t();
            add_product(
                sizes.rows_mut(&mut out, at, 2, 0, tokens),
                1.0,
                by_value,
                grad,
            );
            vectorized(
                #[inline(always)]
                || {
                    let rows = weights
                        .chunks_exact(tokens)
                        .zip(slopes.chunks_exact_mut(tokens));
                    for (weights, slopes) in rows {
                        softmax_backward(weights, slopes);
                    }
                },
            );
            let slopes = Mat::new(slopes, count, tokens);
            let queries = sizes.rows(qkv, at, 0, first, count);
            let to_queries = sizes.rows_mut(&mut out, at, 0, first, count);
            product_into(to_queries, scale, slopes, sizes.part(qkv, at, 1));
            let to_keys = sizes.rows_mut(&mut out, at, 1, 0, tokens);
            add_product(to_keys, scale, slopes.t(), queries);
        }
    }
    out
}

/// Computes the softmax of a row in place, after subtracting the maximum. A NaN propagates, so that divergence is detected.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let top = largest(row);
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        // An array's `map` would be a separate function, compiled for the baseline.
        for (v, lane) in chunk.iter_mut().zip(&mut lanes) {
            *v = exp(*v - top);
            *lane += *v;
        }
    }
    // Process the remainder as one vector; element by element, it would cost as much as the rest of the row.
    let mut last = [top; LANES];
    last.iter_mut().zip(&*rest).for_each(|(l, v)| *l = *v);
    for l in &mut last {
        *l = exp(*l - top);
    }
    for ((v, l), lane) in rest.iter_mut().zip(&last).zip(&mut lanes) {
        *v = *l;
        *lane += *l;
    }
    let scale = 1.0 / total(&lanes) + 0.0 * top;
    for v in row {
        *v *= scale;
    }
}

/// Replaces `g` by `y (g - sum(g y))`.
#[inline(always)]
fn softmax_backward(y: &[f32], grad: &mut [f32]) {
    let mean = dot(y, grad);
    grad.iter_mut()
        .zip(y)
        .for_each(|(g, y)| *g = y * (*g - mean));
}
