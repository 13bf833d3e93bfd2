//! Masked pretraining in bf16 whose parameters, gradients and moments stay on a device. A step is a sequence of launches and matrix
//! products without a graph: Candle's graph would fill memory with zeros and add gradients to them, and copy every matrix after an update.
//!
//! A device sums in the order of its kernels, so results are equal for equal parts of a batch. The host reads once per step: the losses and
//! a check of the gradient.

mod learn;
mod lists;
mod memory;
mod model;
mod ready;
mod recorded;
mod step;
mod weights;

pub(super) use learn::pretrain;
pub use memory::{Counts, Shape, counts};
pub(super) use model::supports;
#[cfg(test)]
pub(super) use model::{Numbers, gradients};

#[cfg(test)]
mod tests;
