//! The block on one thread, built from this crate's kernels, with sums in place.

use std::borrow::Cow;

use crate::ops::{attention, bias_gelu, gather, layer_norm, linear};
use crate::product::{Mat, Start, product_from};
use crate::simd::vectorized;

/// Values of a block during one call.
pub struct BlockValues<'a> {
    /// Parameters in the order of `PARAMETERS`.
    pub parameters: [&'a [f32]; 12],
    /// Sizes of the attention.
    pub sizes: attention::Sizes,
    /// Epsilon of both norms.
    pub eps: f32,
    /// Factors of each branch per image (stochastic depth).
    pub scales: [Option<&'a [f32]>; 2],
    /// Rows that continue after the attention, or `None` for all.
    pub only: Option<&'a [u32]>,
}

/// Activations that the backward needs from the forward.
pub struct Activations {
    normed1: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    middle: Vec<f32>,
    normed2: Vec<f32>,
    hidden: Vec<f32>,
    active: Vec<f32>,
}

impl BlockValues<'_> {
    fn width(&self) -> usize {
        self.sizes.heads * self.sizes.size
    }

    /// Number of rows before and after the selection at the end of the attention.
    fn rows(&self) -> [usize; 2] {
        let all = self.sizes.batch * self.sizes.tokens;
        [all, self.only.map_or(all, <[u32]>::len)]
    }

    /// Returns the output and the activations for a backward.
    pub fn forward(&self, x: &[f32]) -> (Vec<f32>, Activations) {
        let ([rows, selected], width) = (self.rows(), self.width());
        let [n1w, n1b, qkv_w, qkv_b, .., fc1_w, fc1_b, _, _] = self.parameters;
        let [.., n2w, n2b, _, _, _, _] = self.parameters;
        let normed1 = layer_norm::forward(x, n1w, n1b, self.eps);
        let qkv = linear::forward_bias(&normed1, qkv_w, qkv_b, [rows, width, 3 * width]);
        let mixed = attention::forward(&qkv, self.sizes);
        let mut middle = self.residual(0, x, &mixed, width);
        if let Some(only) = self.only {
            middle = gather::gather(&middle, only, width);
        }
        let normed2 = layer_norm::forward(&middle, n2w, n2b, self.eps);
        let hidden = linear::forward(&normed2, fc1_w, [selected, width, 4 * width]);
        let active = bias_gelu::forward(&hidden, fc1_b);
        let y = self.residual(1, &middle, &active, 4 * width);
        let activations = Activations {
            normed1,
            qkv,
            mixed,
            middle,
            normed2,
            hidden,
            active,
        };
        (y, activations)
    }

    /// Returns weight and bias of the last layer of a branch.
    fn last(&self, branch: usize) -> (&[f32], &[f32]) {
        let at = [4, 10][branch];
        (self.parameters[at], self.parameters[at + 1])
    }

    /// Returns `x + s (a W^T + b)`.
    fn residual(&self, branch: usize, x: &[f32], a: &[f32], from: usize) -> Vec<f32> {
        let (rows, width) = (self.rows()[branch], self.width());
        let (weight, bias) = self.last(branch);
        let Some(scales) = self.scales[branch] else {
            let weight = Mat::new(weight, width, from).t();
            return product_from(Start::Sum(x, bias), Mat::new(a, rows, from), weight);
        };
        let mut y = linear::forward_bias(a, weight, bias, [rows, from, width]);
        let size = self.sizes.tokens * width;
        for ((y, x), scale) in y
            .chunks_exact_mut(size)
            .zip(x.chunks_exact(size))
            .zip(scales)
        {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = x + *y * scale;
                    }
                },
            );
        }
        y
    }

    /// Returns the gradient of a branch: the sum's gradient, scaled by each image's factor.
    fn of_branch<'g>(&self, branch: usize, grad: &'g [f32]) -> Cow<'g, [f32]> {
        let Some(scales) = self.scales[branch] else {
            return Cow::Borrowed(grad);
        };
        let size = self.sizes.tokens * self.width();
        let scaled = grad.chunks_exact(size).zip(scales);
        let scaled = scaled.flat_map(|(grad, scale)| grad.iter().map(move |g| g * scale));
        Cow::Owned(scaled.collect())
    }

    /// Returns the gradients of `x` and of the parameters for the output's gradient `grad`.
    pub fn backward(
        &self,
        x: &[f32],
        activations: Activations,
        grad: &[f32],
    ) -> (Vec<f32>, [Vec<f32>; 12]) {
        let ([rows, selected], width) = (self.rows(), self.width());
        let [n1w, _, qkv_w, ..] = self.parameters;
        let [.., n2w, _, fc1_w, fc1_b, _, _] = self.parameters;
        let wide = [selected, width, 4 * width];

        let branch = self.of_branch(1, grad);
        let (mut slope, fc2_dw, fc2_db) =
            self.backward_last(1, &activations.active, &branch, 4 * width);
        drop((branch, activations.active));
        let fc1_db = bias_gelu::backward_in_place(&activations.hidden, fc1_b, &mut slope);
        drop(activations.hidden);
        let fc1_dw = linear::backward_weight(&slope, &activations.normed2, wide);
        drop(activations.normed2);
        let normed = linear::backward_x(&slope, fc1_w, wide);
        drop(slope);
        let mut dx = grad.to_vec();
        let [n2_dw, n2_db] =
            layer_norm::backward_add(&activations.middle, n2w, &normed, self.eps, &mut dx);
        drop((normed, activations.middle));
        if let Some(only) = self.only {
            dx = gather::scatter(&dx, only, rows, width);
        }

        let branch = self.of_branch(0, &dx);
        let (mixed, proj_dw, proj_db) = self.backward_last(0, &activations.mixed, &branch, width);
        drop((branch, activations.mixed));
        let qkv = attention::backward(&activations.qkv, &mixed, self.sizes);
        drop((mixed, activations.qkv));
        let tall = [rows, width, 3 * width];
        let qkv_dw = linear::backward_weight(&qkv, &activations.normed1, tall);
        let qkv_db = linear::column_sums(&qkv, 3 * width);
        let normed = linear::backward_x(&qkv, qkv_w, tall);
        let [n1_dw, n1_db] = layer_norm::backward_add(x, n1w, &normed, self.eps, &mut dx);
        let parameters = [
            n1_dw, n1_db, qkv_dw, qkv_db, proj_dw, proj_db, n2_dw, n2_db, fc1_dw, fc1_db, fc2_dw,
            fc2_db,
        ];
        (dx, parameters)
    }

    /// Returns the gradients of a branch's last layer: input, weight and bias.
    fn backward_last(
        &self,
        branch: usize,
        input: &[f32],
        grad: &[f32],
        from: usize,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let sizes = [self.rows()[branch], from, self.width()];
        (
            linear::backward_x(grad, self.last(branch).0, sizes),
            linear::backward_weight(grad, input, sizes),
            linear::column_sums(grad, self.width()),
        )
    }
}
