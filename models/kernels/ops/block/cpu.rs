//! The block on one thread, built from this crate's kernels, with sums in place.

use std::borrow::Cow;

use crate::ops::{attention, bias_gelu, gather, layer_norm, linear};
use crate::product::{Operand, Rounding, Start};
use crate::simd::vectorized;

/// Values of a block during one call.
pub struct BlockValues<'a> {
    /// Weights of qkv, proj, fc1 and fc2. Their numbers are those of all products.
    pub matrices: [Operand<'a>; 4],
    /// Biases of the same.
    pub biases: [&'a [f32]; 4],
    /// Weight and bias of both norms.
    pub norms: [[&'a [f32]; 2]; 2],
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
    normed1: Operand<'static>,
    qkv: Operand<'static>,
    mixed: Operand<'static>,
    middle: Vec<f32>,
    normed2: Operand<'static>,
    hidden: Vec<f32>,
    active: Operand<'static>,
}

/// Indices of the matrices.
const QKV: usize = 0;
const PROJ: usize = 1;
const FC1: usize = 2;
const FC2: usize = 3;

impl BlockValues<'_> {
    fn width(&self) -> usize {
        self.sizes.heads * self.sizes.size
    }

    /// Number of rows before and after the selection at the end of the attention.
    fn rows(&self) -> [usize; 2] {
        let all = self.sizes.batch * self.sizes.tokens;
        [all, self.only.map_or(all, <[u32]>::len)]
    }

    fn rounding(&self) -> Rounding {
        self.matrices[QKV].rounding()
    }

    /// Prepares `values` with rows of `cols` numbers for products.
    fn operand<'v>(&self, values: impl Into<Cow<'v, [f32]>>, cols: usize) -> Operand<'v> {
        let values = values.into();
        let rows = values.len() / cols;
        Operand::new(values, [rows, cols], self.rounding())
    }

    fn norm(&self, which: usize, x: &[f32]) -> Operand<'static> {
        layer_norm::forward(x, self.norms[which], self.eps, self.rounding())
    }

    /// Prepares `[batch * tokens, 3 * width]` for the attention, which has parts as wide as a head.
    fn for_attention(&self, qkv: Vec<f32>) -> Operand<'static> {
        let size = self.sizes.size;
        match size.is_multiple_of(2) {
            true => self.operand(qkv, 3 * self.width()),
            false => Operand::new(qkv, [self.rows()[0], 3 * self.width()], Rounding::Exact),
        }
    }

    /// Returns the output and the activations for a backward.
    pub fn forward(&self, x: &[f32]) -> (Vec<f32>, Activations) {
        let width = self.width();
        let normed1 = self.norm(0, x);
        let bias = Start::Row(self.biases[QKV]);
        let qkv = self.for_attention(linear::forward(&normed1, &self.matrices[QKV], bias));
        let mixed = self.operand(attention::forward(&qkv, self.sizes), width);
        let mut middle = self.residual(0, x, &mixed);
        if let Some(only) = self.only {
            middle = gather::gather(&middle, only, width);
        }
        let normed2 = self.norm(1, &middle);
        let hidden = linear::forward(&normed2, &self.matrices[FC1], Start::Zero);
        let active = bias_gelu::forward(&hidden, self.biases[FC1], self.rounding());
        let y = self.residual(1, &middle, &active);
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

    /// Returns `x + s (a W^T + b)` for the last layer of a branch.
    fn residual(&self, branch: usize, x: &[f32], a: &Operand<'_>) -> Vec<f32> {
        let (width, last) = (self.width(), [PROJ, FC2][branch]);
        let (weight, bias) = (&self.matrices[last], self.biases[last]);
        let Some(scales) = self.scales[branch] else {
            return linear::forward(a, weight, Start::Sum(x, bias));
        };
        let mut y = linear::forward(a, weight, Start::Row(bias));
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
        let mut scaled = grad.to_vec();
        vectorized(
            #[inline(always)]
            || {
                for (grad, scale) in scaled.chunks_exact_mut(size).zip(scales) {
                    grad.iter_mut().for_each(|g| *g *= scale);
                }
            },
        );
        Cow::Owned(scaled)
    }

    /// Returns the gradients of `x` and of the parameters for the output's gradient `grad`.
    pub fn backward(
        &self,
        x: &[f32],
        activations: Activations,
        grad: &[f32],
    ) -> (Vec<f32>, [Vec<f32>; 12]) {
        let width = self.width();
        let branch = self.of_branch(1, grad);
        let (mut middle, fc2_dw, fc2_db) = self.backward_last(1, &activations.active, &branch);
        drop((branch, activations.active));
        let (bias, rounding) = (self.biases[FC1], self.rounding());
        let (slope, fc1_db) = bias_gelu::backward(&activations.hidden, bias, &mut middle, rounding);
        drop(activations.hidden);
        let fc1_dw = linear::backward_weight(&slope, &activations.normed2);
        drop(activations.normed2);
        let normed = linear::backward_x(&slope, &self.matrices[FC1]);
        drop(slope);
        drop(middle);
        let mut dx = grad.to_vec();
        let weight = self.norms[1][0];
        let [n2_dw, n2_db] =
            layer_norm::backward_add(&activations.middle, weight, &normed, self.eps, &mut dx);
        drop((normed, activations.middle));
        if let Some(only) = self.only {
            dx = gather::scatter(&dx, only, self.rows()[0], width);
        }

        let branch = self.of_branch(0, &dx);
        let (mixed, proj_dw, proj_db) = self.backward_last(0, &activations.mixed, &branch);
        drop((branch, activations.mixed));
        let rounding = activations.qkv.rounding();
        let mixed = Operand::new(mixed, [self.rows()[0], width], rounding);
        let qkv = attention::backward(&activations.qkv, &mixed, self.sizes);
        drop((mixed, activations.qkv));
        let (qkv, qkv_db) = linear::with_sums(&qkv, 3 * width, self.rounding());
        let qkv_dw = linear::backward_weight(&qkv, &activations.normed1);
        let normed = linear::backward_x(&qkv, &self.matrices[QKV]);
        let weight = self.norms[0][0];
        let [n1_dw, n1_db] = layer_norm::backward_add(x, weight, &normed, self.eps, &mut dx);
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
        input: &Operand<'_>,
        grad: &[f32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (grad, db) = linear::with_sums(grad, self.width(), self.rounding());
        (
            linear::backward_x(&grad, &self.matrices[[PROJ, FC2][branch]]),
            linear::backward_weight(&grad, input),
            db,
        )
    }
}
