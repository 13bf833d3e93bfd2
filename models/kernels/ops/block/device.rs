//! The block in bf16 on a device, without a graph. The residual stream has the type of the input, f32 or bf16. Gradients of activations are
//! bf16, those of parameters f32.

use crate::device::launch::Float;
use crate::device::launcher::{Device, Memory, Result};
use crate::ops::linear::device::{self as linear, Sizes, Sum};
use crate::ops::{attention, bias_gelu, gather, layer_norm};

/// Indices of parameters in [`PARAMETERS`](super::PARAMETERS); each bias follows its weight.
const NORM1: usize = 0;
const QKV: usize = 2;
const PROJ: usize = 4;
const NORM2: usize = 6;
const FC1: usize = 8;
const FC2: usize = 10;

/// A block on a device.
#[derive(Clone, Copy)]
pub struct DeviceBlock<'a> {
    /// The device.
    pub device: &'a Device,
    /// The parameters in f32.
    pub values: &'a [Memory; 12],
    /// The parameters in bf16.
    pub rounded: &'a [Memory; 12],
    /// Sizes of the attention.
    pub sizes: attention::Sizes,
    /// Epsilon of both norms.
    pub eps: f32,
    /// Rows that continue after the attention, or `None` for all.
    pub only: Option<&'a Rows>,
}

/// Some rows of a matrix, as index lists on a device.
#[derive(Clone)]
pub struct Rows {
    /// The rows, each at most once.
    pub rows: Memory,
    /// For each row of the matrix its position in `rows`, or [`NONE`](crate::device::launch::NONE).
    pub inverse: Memory,
}

/// What a backward needs from the forward.
pub struct Activations {
    x: Memory,
    normed1: Memory,
    qkv: Memory,
    mixed: Memory,
    log_total: Memory,
    middle: Memory,
    normed2: Memory,
    hidden: Memory,
    active: Memory,
}

impl DeviceBlock<'_> {
    fn width(&self) -> usize {
        self.sizes.heads * self.sizes.size
    }

    /// Sizes of the layer whose weight is parameter `at`, for `rows` rows.
    fn layer(&self, at: usize, rows: usize) -> Sizes {
        let width = self.width();
        let (from, to) = match at {
            QKV => (width, 3 * width),
            FC1 => (width, 4 * width),
            FC2 => (4 * width, width),
            _ => (width, width),
        };
        Sizes { rows, from, to }
    }

    fn norm(&self, at: usize, x: &Memory) -> Result<Memory> {
        let parameters = [&self.values[at], &self.values[at + 1]];
        layer_norm::device::forward(self.device, x, parameters, self.eps)
    }

    /// Applies the layer `at` with its bias, and adds `residual`.
    fn linear(&self, at: usize, x: &Memory, residual: Option<&Memory>) -> Result<Memory> {
        let from = self.layer(at, 0).from;
        let sizes = self.layer(at, x.len() / from);
        let bias = match residual.map(Memory::float) {
            Some(Float::F32) => &self.values[at + 1],
            _ => &self.rounded[at + 1],
        };
        // GELU adds the bias of its layer.
        let bias = (at != FC1).then_some(bias);
        linear::forward(self.device, sizes, [x, &self.rounded[at]], bias, residual)
    }

    /// Returns the output of `x` `[batch * tokens, width]` in f32 or bf16, and what a backward needs.
    ///
    /// # Errors
    /// If the size of a head is not supported; errors of the device.
    pub fn forward(&self, x: Memory) -> Result<(Memory, Activations)> {
        let normed1 = self.norm(NORM1, &x)?;
        let qkv = self.linear(QKV, &normed1, None)?;
        let [mixed, log_total] = attention::device::forward(self.device, &qkv, self.sizes)?;
        let mut middle = self.linear(PROJ, &mixed, Some(&x))?;
        if let Some(only) = self.only {
            middle = gather::device::gather(self.device, &middle, &only.rows, self.width())?;
        }
        let normed2 = self.norm(NORM2, &middle)?;
        let hidden = self.linear(FC1, &normed2, None)?;
        let active = bias_gelu::device::forward(self.device, &hidden, &self.values[FC1 + 1])?;
        let y = self.linear(FC2, &active, Some(&middle))?;
        let activations = Activations {
            x,
            normed1,
            qkv,
            mixed,
            log_total,
            middle,
            normed2,
            hidden,
            active,
        };
        Ok((y, activations))
    }

    /// Returns the gradient of the input from that of the output, both in bf16, and computes those of the parameters.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn backward(
        &self,
        kept: Activations,
        grad: Memory,
        sums: &[Sum<'_>; 12],
    ) -> Result<Memory> {
        let device = self.device;
        let slope = self.backward_layer(FC2, &kept.active, &grad, sums)?;
        drop(kept.active);
        let given = [&kept.hidden, &self.values[FC1 + 1], &slope];
        let slope = bias_gelu::device::backward(device, given, sums[FC1 + 1])?;
        drop(kept.hidden);
        let normed = self.backward_layer(FC1, &kept.normed2, &slope, sums)?;
        drop((slope, kept.normed2));
        let mut grad = self.backward_norm(NORM2, &kept.middle, &normed, &grad, sums)?;
        drop((normed, kept.middle));
        if let Some(only) = self.only {
            grad = gather::device::gather(device, &grad, &only.inverse, self.width())?;
        }
        let mixed = self.backward_layer(PROJ, &kept.mixed, &grad, sums)?;
        let given = [&kept.qkv, &kept.mixed, &kept.log_total, &mixed];
        let qkv = attention::device::backward(device, given, self.sizes)?;
        drop((mixed, kept.mixed, kept.qkv));
        let normed = self.backward_layer(QKV, &kept.normed1, &qkv, sums)?;
        drop((qkv, kept.normed1));
        self.backward_norm(NORM1, &kept.x, &normed, &grad, sums)
    }

    /// Computes the gradients of a layer's weight and bias and returns that of its input `x`.
    fn backward_layer(
        &self,
        at: usize,
        x: &Memory,
        grad: &Memory,
        sums: &[Sum<'_>; 12],
    ) -> Result<Memory> {
        let sizes = self.layer(at, x.len() / self.layer(at, 0).from);
        // The gradient of GELU comes with that of the bias before it.
        let bias = (at != FC1).then_some(sums[at + 1]);
        linear::backward_weight(self.device, sizes, [grad, x], sums[at], bias)?;
        linear::backward_input(self.device, sizes, [grad, &self.rounded[at]])
    }

    /// Returns the gradient of a norm's input plus `base`, and computes those of its parameters.
    fn backward_norm(
        &self,
        at: usize,
        x: &Memory,
        grad: &Memory,
        base: &Memory,
        sums: &[Sum<'_>; 12],
    ) -> Result<Memory> {
        let given = [x, &self.values[at], grad];
        let parameters = [sums[at], sums[at + 1]];
        layer_norm::device::backward(self.device, given, Some(base), self.eps, parameters)
    }
}

#[cfg(test)]
mod tests;
