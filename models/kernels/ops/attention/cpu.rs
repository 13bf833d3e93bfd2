//! Processes one head of one image at a time, in tiles of at most [`TILE`] queries whose weights fit the L2 cache.

use crate::ops::bias_gelu::exp;
use crate::product::{Factor, Form, MatMut, Operand, Rounding, Start, product_of_into};
use crate::simd::{Fused, LANES, dot, largest, total};

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

    /// Iterates over images and heads.
    fn each(self) -> impl Iterator<Item = Head> {
        let heads = move |image| (0..self.heads).map(move |head| Head { image, head });
        (0..self.batch).flat_map(heads)
    }

    fn all(self) -> (usize, usize) {
        (0, self.tokens)
    }

    /// Returns queries (0), keys (1) or values (2) of the head at `at`: all rows, or `count` from `first`.
    fn part<'q>(
        self,
        qkv: Factor<'q>,
        at: Head,
        which: usize,
        (first, count): (usize, usize),
    ) -> Factor<'q> {
        let column = which * self.width() + at.head * self.size;
        let row = at.image * self.tokens + first;
        qkv.part((row, count), (column, self.size))
    }

    /// As [`part`](Self::part), for writing.
    fn part_mut(
        self,
        qkv: &mut [f32],
        at: Head,
        which: usize,
        (first, count): (usize, usize),
    ) -> MatMut<'_> {
        let (width, stride) = (self.width(), 3 * self.width());
        let row = at.image * self.tokens + first;
        let start = row * stride + which * width + at.head * self.size;
        MatMut::strided(&mut qkv[start..], count, self.size, stride)
    }

    /// Returns `count` rows from `first` of the head's columns of `[batch * tokens, width]`.
    fn own<'o>(self, all: Factor<'o>, at: Head, (first, count): (usize, usize)) -> Factor<'o> {
        let row = at.image * self.tokens + first;
        all.part((row, count), (at.head * self.size, self.size))
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

    /// Computes the weights of `count` queries, starting at `first`, into `tile` `[count, tokens]`, and prepares them for products.
    fn weights<'t>(
        self,
        (qkv, rounding): (Factor<'_>, Rounding),
        at: Head,
        (first, count): (usize, usize),
        tile: &'t mut [f32],
    ) -> Operand<'t> {
        product_of_into(
            MatMut::new(tile, count, self.tokens),
            Form::RightTransposed,
            Start::Zero,
            self.scale(),
            self.part(qkv, at, 0, (first, count)),
            self.part(qkv, at, 1, self.all()),
        );
        Operand::changed(
            tile,
            self.tokens,
            rounding,
            #[inline(always)]
            |by, _, row| softmax(by, row),
        )
    }
}

/// A head of an image.
#[derive(Clone, Copy)]
struct Head {
    image: usize,
    head: usize,
}

/// Computes the output `[batch, tokens, heads * size]` of `qkv` `[batch * tokens, 3 * heads * size]`. Products are in the numbers of
/// `qkv`.
pub fn forward(qkv: &Operand<'_>, sizes: Sizes) -> Vec<f32> {
    let (tokens, width) = (sizes.tokens, sizes.width());
    let (rounding, qkv) = (qkv.rounding(), qkv.factor());
    let mut out = vec![0.0; sizes.batch * tokens * width];
    let mut weights = vec![0.0; sizes.tile_len()];
    for at in sizes.each() {
        for (first, count) in sizes.tiles() {
            let weights = &mut weights[..count * tokens];
            let weights = sizes.weights((qkv, rounding), at, (first, count), weights);
            let row = at.image * tokens + first;
            let mixed = &mut out[row * width + at.head * sizes.size..];
            product_of_into(
                MatMut::strided(mixed, count, sizes.size, width),
                Form::Plain,
                Start::Zero,
                1.0,
                weights.factor(),
                sizes.part(qkv, at, 2, sizes.all()),
            );
        }
    }
    out
}

/// Returns the gradient of `qkv` for the output's gradient `grad` `[batch * tokens, heads * size]`, both in the same numbers. With weights
/// P and output O: `dV = P^T dO`, `dS = P (dO V^T - rowsum(P dO V^T))`, `dQ = dS K / sqrt(size)`, `dK = dS^T Q / sqrt(size)`.
pub fn backward(qkv: &Operand<'_>, grad: &Operand<'_>, sizes: Sizes) -> Vec<f32> {
    let (tokens, scale) = (sizes.tokens, sizes.scale());
    let (rounding, qkv, grad) = (qkv.rounding(), qkv.factor(), grad.factor());
    let mut out = vec![0.0; sizes.batch * tokens * 3 * sizes.width()];
    let mut weights = vec![0.0; sizes.tile_len()];
    let mut slopes = vec![0.0; sizes.tile_len()];
    for at in sizes.each() {
        for rows @ (_, count) in sizes.tiles() {
            let weights = &mut weights[..count * tokens];
            let slopes = &mut slopes[..count * tokens];
            let by_value = sizes.weights((qkv, rounding), at, rows, weights);
            let grad = sizes.own(grad, at, rows);
            product_of_into(
                MatMut::new(slopes, count, tokens),
                Form::RightTransposed,
                Start::Zero,
                1.0,
                grad,
                sizes.part(qkv, at, 2, sizes.all()),
            );
            product_of_into(
                sizes.part_mut(&mut out, at, 2, sizes.all()),
                Form::LeftTransposed,
                Start::There,
                1.0,
                by_value.factor(),
                grad,
            );
            drop(by_value);
            let slopes = Operand::changed(
                slopes,
                tokens,
                rounding,
                #[inline(always)]
                |_, at, slopes| softmax_backward(&weights[at * tokens..][..tokens], slopes),
            );
            product_of_into(
                sizes.part_mut(&mut out, at, 0, rows),
                Form::Plain,
                Start::Zero,
                scale,
                slopes.factor(),
                sizes.part(qkv, at, 1, sizes.all()),
            );
            product_of_into(
                sizes.part_mut(&mut out, at, 1, sizes.all()),
                Form::LeftTransposed,
                Start::There,
                scale,
                slopes.factor(),
                sizes.part(qkv, at, 0, rows),
            );
        }
    }
    out
}

/// Computes the softmax of a row in place, after subtracting the maximum. A NaN propagates, so that divergence is detected.
#[inline(always)]
fn softmax(by: Fused, row: &mut [f32]) {
    let top = largest(row);
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        // An array's `map` would be a separate function, compiled for the baseline.
        for (v, lane) in chunk.iter_mut().zip(&mut lanes) {
            *v = exp(by, *v - top);
            *lane += *v;
        }
    }
    // Process the remainder as one vector; element by element, it would cost as much as the rest of the row.
    let mut last = [top; LANES];
    last.iter_mut().zip(&*rest).for_each(|(l, v)| *l = *v);
    for l in &mut last {
        *l = exp(by, *l - top);
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
