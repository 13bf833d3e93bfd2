//! A pre-norm transformer block (timm `Block`) as one operation: `x + s0 proj(attention(qkv(norm1 x)))`, then
//! `+ s1 fc2(gelu(fc1(norm2 .)))`.
//!
//! The operation uses this crate's kernels and saves passes between them. Candle adds every gradient to zeros in new memory
//! and limits an operation to three arguments. Here, sums are in place, and the gradients of the twelve parameters are stored
//! [`Beside`] the graph; the caller takes them or adds them to Candle's store. With `recompute`, only the block's input is stored,
//! and the backward runs the forward again (Chen et al. 2016).

mod composed;
mod cpu;
pub mod device;
mod packs;
mod parts;

pub use packs::Packs;
pub use parts::{Block, MATRICES, PARAMETERS, shapes};

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(test)]
pub(crate) use composed::composed;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, TensorId};

use super::values::{floats, read, stored_numbers, tensor};
use crate::product::Rounding;
use crate::simd::add;

/// Gradients of parameters from one forward pass, stored outside Candle's graph.
#[derive(Clone, Default)]
pub struct Beside(Arc<Mutex<Vec<Gradient>>>);

/// A parameter and its gradient.
type Gradient = (Tensor, Vec<f32>);

impl Beside {
    fn put(&self, all: impl IntoIterator<Item = Gradient>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(all);
    }

    /// Returns and removes the gradients, summed per parameter. Call it after the backward.
    pub fn take(&self) -> HashMap<TensorId, Vec<f32>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: HashMap<TensorId, Vec<f32>> = HashMap::with_capacity(held.len());
        for (parameter, grad) in held.drain(..) {
            match all.entry(parameter.id()) {
                Entry::Vacant(free) => {
                    free.insert(grad);
                }
                Entry::Occupied(mut before) => add(before.get_mut(), &grad),
            }
        }
        all
    }

    /// Adds the gradients to those in `store` and removes them here. Call it after the backward.
    ///
    /// # Errors
    /// If a sum fails.
    pub fn lay_into(&self, store: &mut GradStore) -> Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (parameter, grad) in held.drain(..) {
            let grad = tensor(grad, parameter.shape().clone())?;
            let grad = match store.remove(&parameter) {
                Some(before) => (before + grad)?,
                None => grad,
            };
            store.insert(&parameter, grad);
        }
        Ok(())
    }
}

/// Runs `block` on `x`. A later backward stores the parameters' gradients in `beside`; without it, no backward is possible. If `x` is
/// bf16 or on a GPU, the block is composed of single operations, whose gradients are in the graph.
///
/// # Shapes
/// `x` `[batch, tokens, width]` f32 or bf16. Matrices among the parameters are of the same type, or, if `x` is f32 on the CPU, bf16:
/// all numbers are then rounded to bf16 for products and sums stay f32, as under PyTorch's autocast. Returns the same shape or
/// `[only.len(), width]`.
///
/// # Errors
/// If an argument has another type or sizes differ.
pub fn block(x: &Tensor, block: Block, beside: Option<&Beside>) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    let expected = shapes(width);
    let wrong = (0..12).find(|i| block.parameters[*i].dims() != expected[*i]);
    if let Some(at) = wrong {
        let found = block.parameters[at].dims();
        candle_core::bail!(
            "block: {} is {found:?}, expected {:?}",
            PARAMETERS[at],
            expected[at]
        );
    }
    if block.heads == 0 || !width.is_multiple_of(block.heads) {
        candle_core::bail!(
            "block: width {width} is not divisible by {} heads",
            block.heads
        );
    }
    if block.scales.iter().flatten().any(|s| s.len() != batch) {
        candle_core::bail!("block: expected a factor for each of {batch} images");
    }
    if let Some(only) = &block.only {
        super::gather::check_rows(only, batch * tokens)?;
        if block.scales[1].is_some() {
            candle_core::bail!("block: factors of the second branch are per image, `only` per row");
        }
    }
    if block.composed || !x.device().is_cpu() || x.dtype() != DType::F32 {
        return composed::composed(x, &block);
    }
    x.contiguous()?.apply_op1(Operation {
        block,
        beside: beside.cloned(),
        activations: Mutex::new(None),
    })
}

struct Operation {
    block: Block,
    beside: Option<Beside>,
    activations: Mutex<Option<cpu::Activations>>,
}

impl Operation {
    /// Calls `work` with the parameters' values and the sizes.
    fn with<R>(&self, shape: &Shape, work: impl FnOnce(&cpu::BlockValues<'_>) -> R) -> Result<R> {
        let (batch, tokens, width) = shape.dims3()?;
        let of = |i: &usize| &self.block.parameters[*i];
        let matrices = MATRICES.iter().map(|i| stored_numbers(of(i)));
        let matrices = matrices.collect::<Result<Vec<_>>>()?;
        let vectors = [0, 1, 6, 7, 3, 5, 9, 11].iter().map(|i| read(of(i)));
        let vectors = vectors.collect::<Result<Vec<_>>>()?;
        let sizes = [3 * width, width, 4 * width, width];
        let operand = |i: usize| {
            let size = [sizes[i], matrices[i].len() / sizes[i].max(1)];
            let packed = self.block.packs.of(of(&MATRICES[i]));
            matrices[i].operand(size, Rounding::Exact).with(packed)
        };
        let vector = |i: usize| &*vectors[i];
        Ok(work(&cpu::BlockValues {
            matrices: std::array::from_fn(operand),
            biases: std::array::from_fn(|i| vector(4 + i)),
            norms: [[vector(0), vector(1)], [vector(2), vector(3)]],
            sizes: super::attention::Sizes {
                batch,
                tokens,
                heads: self.block.heads,
                size: width / self.block.heads,
            },
            eps: self.block.eps,
            scales: self.block.scales.each_ref().map(Option::as_deref),
            only: self.block.only.as_deref(),
        }))
    }
}

impl CustomOp1 for Operation {
    fn name(&self) -> &'static str {
        "block"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = layout.shape();
        let x = floats("block", x, layout)?;
        let (y, activations) = self.with(shape, |block| block.forward(&x))?;
        if self.beside.is_some() && !self.block.recompute {
            *self
                .activations
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(activations);
        }
        let shape = match &self.block.only {
            None => shape.clone(),
            Some(only) => (only.len(), shape.dims3()?.2).into(),
        };
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(beside) = &self.beside else {
            candle_core::bail!("block: a backward needs `beside` in the forward");
        };
        let grad = grad.contiguous()?;
        let (xs, grads) = (read(x)?, read(&grad)?);
        let activations = self
            .activations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (dx, parameters) = self.with(x.shape(), |block| {
            let activations = activations.unwrap_or_else(|| block.forward(&xs).1);
            block.backward(&xs, activations, &grads)
        })?;
        beside.put(self.block.parameters.iter().cloned().zip(parameters));
        Ok(Some(tensor(dx, x.shape().clone())?))
    }
}

#[cfg(test)]
mod tests;
