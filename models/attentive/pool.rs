//! The cross-attention of both forms on a shard of images, forward and backward.
//!
//! Keys enter the scores only through a product with a query, `q' W x = (W' q)' x`, so a form is a list of *effective* queries `[readers,
//! width]` on the tokens themselves. A reader's output is a linear map of the mean of the tokens under its attention. No projection of
//! all tokens is computed.

use tessera_kernels::product::{Mat, MatMut, add_product, product, product_into};
use tessera_kernels::simd::{dot, largest};

use super::form::{Sizes, Sums};
use super::weights::Weights;

/// What the backward of a shard needs.
pub(super) struct Read {
    /// `[images, readers, patches]`.
    attention: Vec<f32>,
    /// Means of the tokens under the attention, `[images, readers, width]`.
    means: Vec<f32>,
    /// The readers' outputs side by side, `[images, width]`.
    pub out: Vec<f32>,
}

/// Reads the tokens of a shard `[images, patches, width]`.
pub(super) fn read(weights: &Weights, sizes: Sizes, tokens: &[f32]) -> Read {
    let Sizes { patches, width, .. } = sizes;
    let readers = weights.readers;
    let images = tokens.len() / (patches * width);
    let mut attention = Vec::with_capacity(images * readers * patches);
    let mut means = Vec::with_capacity(images * readers * width);
    for x in tokens.chunks_exact(patches * width) {
        let x = Mat::new(x, patches, width);
        let mut scores = product(Mat::new(&weights.queries, readers, width), x.t());
        scores.chunks_exact_mut(patches).for_each(softmax);
        means.extend(product(Mat::new(&scores, readers, patches), x));
        attention.extend(scores);
    }
    let mut out = vec![0.0; images * width];
    let scaled = weights.normed(&means);
    let group = width / readers;
    for reader in 0..readers {
        let z = Mat::strided(&scaled[reader * width..], images, width, readers * width);
        let w = Mat::new(weights.group(reader), group, width);
        let to = MatMut::strided(&mut out[reader * group..], images, group, width);
        product_into(to, 1.0, z, w.t());
    }
    Read {
        attention,
        means,
        out,
    }
}

/// Computes a shard's gradients from that of its outputs, `[images, width]`.
pub(super) fn unread(
    weights: &Weights,
    sizes: Sizes,
    tokens: &[f32],
    read: &Read,
    out: &[f32],
) -> Sums {
    let Sizes { patches, width, .. } = sizes;
    let readers = weights.readers;
    let (group, images) = (width / readers, out.len() / width);
    let scaled = weights.normed(&read.means);
    let mut means = vec![0.0; read.means.len()];
    let mut value = vec![0.0; width * width];
    for reader in 0..readers {
        let z = Mat::strided(&scaled[reader * width..], images, width, readers * width);
        let g = Mat::strided(&out[reader * group..], images, group, width);
        let to = &mut value[reader * group * width..][..group * width];
        product_into(MatMut::new(to, group, width), 1.0, g.t(), z);
        let to = &mut means[reader * width..];
        let to = MatMut::strided(to, images, width, readers * width);
        product_into(to, 1.0, g, Mat::new(weights.group(reader), group, width));
    }
    let norm = weights.unnorm(&read.means, &mut means);
    let mut queries = vec![0.0; readers * width];
    let each = tokens.chunks_exact(patches * width);
    let each = each.zip(read.attention.chunks_exact(readers * patches));
    for ((x, attention), means) in each.zip(means.chunks_exact(readers * width)) {
        let x = Mat::new(x, patches, width);
        let mut scores = product(Mat::new(means, readers, width), x.t());
        let rows = scores.chunks_exact_mut(patches);
        for (scores, attention) in rows.zip(attention.chunks_exact(patches)) {
            let mean = dot(scores, attention);
            let pairs = scores.iter_mut().zip(attention);
            pairs.for_each(|(s, a)| *s = a * (*s - mean));
        }
        let to = MatMut::new(&mut queries, readers, width);
        add_product(to, 1.0, Mat::new(&scores, readers, patches), x);
    }
    Sums {
        queries,
        value,
        norm,
    }
}

fn softmax(row: &mut [f32]) {
    let top = largest(row);
    row.iter_mut().for_each(|v| *v = (*v - top).exp());
    let total: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= total);
}
