//! The gradient of a batch: a sum over shards in a fixed order, on the parameters' device.
//!
//! On the CPU, threads claim shards in order and add their gradients to lists that all steps reuse. Otherwise the sums are one f32
//! tensor, the layout of the optimisers' kernels. A device computes parts of the batch sequentially; each part joins as many shards as
//! fit into memory.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::objective::Objective;
use crate::ordered::in_order;
use crate::params::ParamStore;
use crate::vit::{self, Pass};
use tessera_kernels::ops::block::Packs;
use tessera_kernels::ops::flat::{CHUNK, Flat};
use tessera_kernels::ops::values::read;
use tessera_kernels::simd::{add, sum, vectorized};

/// The gradient of all trainable variables in order, summed in f32 on their device.
#[derive(Clone, Debug)]
pub enum Gradient {
    /// One list per variable, on the CPU.
    Lists(Vec<Vec<f32>>),
    /// One f32 tensor `[len]` in the layout of [`Flat`].
    Flat(Tensor),
    /// With the parameters in the memory of a device (`pretrain/resident`).
    Resident,
}

/// Mean loss of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Loss {
    /// On the CPU.
    Number(f64),
    /// An f32 scalar on the gradient's device, which is read back once, together with the check.
    There(Tensor),
}

/// Loss and gradient of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchSums {
    /// Mean over the batch.
    pub loss: Loss,
    /// Gradient of the mean loss.
    pub gradient: Gradient,
}

impl Gradient {
    /// Collects one gradient per variable into the form that `compute` uses.
    ///
    /// # Errors
    /// If a copy fails.
    pub(crate) fn of(compute: &Compute, flat: &Flat, each: &[&Tensor]) -> Result<Self> {
        if compute.is_composed() {
            return Ok(Self::Flat(in_one(flat, each, compute.device())?));
        }
        let lists = each
            .iter()
            .map(|grad| Ok(read(&grad.contiguous()?)?.to_vec()));
        Ok(Self::Lists(lists.collect::<Result<_>>()?))
    }

    /// Returns a gradient of zeros.
    fn none(compute: &Compute, flat: &Flat) -> Result<Self> {
        if compute.is_composed() {
            let zeros = Tensor::zeros(flat.len(), DType::F32, compute.device())?;
            return Ok(Self::Flat(zeros));
        }
        let lists = flat.lengths.iter().map(|length| vec![0.0; *length]);
        Ok(Self::Lists(lists.collect()))
    }
}

impl BatchSums {
    /// Returns the loss, or NaN if the loss is finite but the gradient is not. Reads back a single number from a device.
    ///
    /// # Errors
    /// If reading back fails, which also reports earlier failed launches.
    pub(crate) fn checked_loss(&self) -> Result<f64> {
        let zero = match &self.gradient {
            Gradient::Lists(lists) => Loss::Number(lists.par_iter().map(|list| zero(list)).sum()),
            Gradient::Flat(all) => {
                // Rows let a device sum in parallel.
                let rows = all.reshape((all.elem_count() / CHUNK as usize, CHUNK as usize))?;
                Loss::There((rows * 0.0)?.sum(1)?.sum_all()?)
            }
            // The device checks it.
            Gradient::Resident => Loss::Number(0.0),
        };
        match (&self.loss, &zero) {
            (Loss::There(loss), Loss::There(zero)) => Loss::There((loss + zero)?).read(),
            (loss, zero) => Ok(loss.read()? + zero.read()?),
        }
    }
}

impl Loss {
    fn read(&self) -> Result<f64> {
        Ok(match self {
            Self::Number(number) => *number,
            Self::There(tensor) => f64::from(tensor.to_scalar::<f32>()?),
        })
    }
}

/// Returns 0, or NaN if a number is not finite.
fn zero(list: &[f32]) -> f64 {
    let zero = vectorized(
        #[inline(always)]
        || sum(list.len(), |i| list[i] * 0.0),
    );
    f64::from(zero)
}

/// Copies gradients into one f32 tensor.
fn in_one(flat: &Flat, each: &[&Tensor], device: &Device) -> Result<Tensor> {
    let all = Tensor::zeros(flat.len(), DType::F32, device)?;
    for (at, grad) in each.iter().enumerate() {
        let grad = grad.detach().flatten_all()?.to_dtype(DType::F32)?;
        all.slice_set(&grad.contiguous()?, 0, flat.starts[at])?;
    }
    Ok(all)
}

/// Splits a batch among the processes that train a model together, and sums their results. All communication of a step goes through this
/// trait; it is the extension point for several devices.
pub(crate) trait Reduction: Sync {
    /// Returns the range of a batch's `shards` that this process computes.
    fn mine(&self, shards: usize) -> Range<usize>;
    /// Replaces the loss and gradient of [`mine`](Self::mine) with the sums over all processes; every process gets the same bytes.
    ///
    /// # Errors
    /// If another process cannot be reached.
    fn sum(&self, sums: &mut BatchSums) -> Result<()>;
}

/// A single process on one device.
pub(crate) struct Alone;

impl Reduction for Alone {
    fn mine(&self, shards: usize) -> Range<usize> {
        0..shards
    }

    fn sum(&self, _: &mut BatchSums) -> Result<()> {
        Ok(())
    }
}

/// Returns the layout of the variables' gradients in one buffer.
pub(crate) fn layout(params: &ParamStore) -> Flat {
    let lengths = params.trainable().map(|(_, var)| var.elem_count());
    Flat::of(&lengths.collect::<Vec<_>>())
}

/// Sums over a batch, in memory that all steps reuse.
pub(crate) struct Gradients<'a> {
    reduction: &'a dyn Reduction,
    flat: Flat,
    sums: BatchSums,
    packs: Packs,
}

impl<'a> Gradients<'a> {
    /// Allocates sums for `params`.
    ///
    /// # Errors
    /// If memory is insufficient.
    pub(crate) fn new(params: &ParamStore, reduction: &'a dyn Reduction) -> Result<Self> {
        let flat = layout(params);
        Ok(Self {
            reduction,
            sums: BatchSums {
                loss: Loss::Number(0.0),
                gradient: Gradient::none(params.compute(), &flat)?,
            },
            flat,
            packs: Packs::default(),
        })
    }

    /// Gradient of the last batch.
    pub(crate) fn gradient(&self) -> &Gradient {
        &self.sums.gradient
    }

    /// Computes the mean loss of a batch and stores its [`gradient`](Self::gradient). This process computes `shards` of the batch's shards;
    /// `take` returns the data of each once. If the returned loss is not finite, the step must be skipped.
    ///
    /// # Errors
    /// The error of the first failing shard in order; [`Error::Config`] if a trainable variable gets no gradient.
    pub(crate) fn of<O: Objective>(
        &mut self,
        params: &ParamStore,
        objective: &O,
        shards: usize,
        take: &(dyn Fn(usize) -> Result<O::Prepared> + Sync),
    ) -> Result<f64> {
        self.sums.loss = Loss::Number(0.0);
        match objective.together() {
            Some(together) => {
                for first in (0..shards).step_by(together.max(1)) {
                    let part = first..(first + together.max(1)).min(shards);
                    let joined = joined(objective, part, take)?;
                    let made = backward(objective, joined, &Packs::default())?;
                    self.add(params, made, first == 0)?;
                }
            }
            None => {
                vit::pack(params, &mut self.packs)?;
                let packs = self.packs.clone();
                let make = |index: usize| backward(objective, take(index)?, &packs);
                let add = |index: usize, made| self.add(params, made, index == 0);
                // At most one gradient per thread waits for its turn, which bounds memory.
                in_order(shards, rayon::current_num_threads(), make, add)?;
            }
        }
        if shards == 0 {
            self.sums.gradient = Gradient::none(params.compute(), &self.flat)?;
        }
        self.reduction.sum(&mut self.sums)?;
        self.sums.checked_loss()
    }

    fn add(
        &mut self,
        params: &ParamStore,
        (loss, grads): (Tensor, vit::Found),
        first: bool,
    ) -> Result<()> {
        match &mut self.sums.gradient {
            Gradient::Lists(lists) => {
                add_lists(params, lists, grads, first)?;
                let loss = f64::from(loss.to_scalar::<f32>()?);
                if let Loss::Number(total) = &mut self.sums.loss {
                    *total += loss;
                }
            }
            Gradient::Flat(total) => {
                let each = params.leaves().map(|(name, leaf)| {
                    let grad = grads.graph.get(leaf);
                    grad.ok_or_else(|| no_gradient(name))
                });
                let each: Vec<&Tensor> = each.collect::<Result<_>>()?;
                let all = in_one(&self.flat, &each, params.compute().device())?;
                *total = if first { all } else { (&*total + all)? };
                self.sums.loss = Loss::There(match &self.sums.loss {
                    Loss::There(total) => (total + loss)?,
                    Loss::Number(_) => loss,
                });
            }
            Gradient::Resident => return Err(mismatch()),
        }
        Ok(())
    }
}

/// The error for a gradient whose form does not match the optimiser's state.
pub(crate) fn mismatch() -> Error {
    Error::Config("the gradients are on another device than the optimiser's variables".into())
}

fn no_gradient(name: &str) -> Error {
    Error::Config(format!("parameter `{name}` has no gradient"))
}

/// Adds a shard's gradients to `lists`, or overwrites `lists` if the shard is the first.
fn add_lists(
    params: &ParamStore,
    lists: &mut [Vec<f32>],
    mut grads: vit::Found,
    first: bool,
) -> Result<()> {
    let mut sums = Vec::with_capacity(lists.len());
    for ((name, leaf), total) in params.leaves().zip(lists) {
        let block = grads.blocks.remove(&leaf.id());
        let graph = grads.graph.get(leaf);
        if block.is_none() && graph.is_none() {
            return Err(no_gradient(name));
        }
        sums.push((total, block, graph));
    }
    // After the last shard of a batch the other threads are idle, so they share the sums.
    sums.into_par_iter()
        .try_for_each(|(total, block, graph)| match block {
            None => graph.map_or(Ok(()), |graph| add_tensor(total, graph, first)),
            Some(mut block) => {
                graph.map_or(Ok(()), |graph| add_tensor(&mut block, graph, false))?;
                match first {
                    true => *total = block,
                    false => add(total, &block),
                }
                Ok(())
            }
        })
}

/// Computes the loss (f32) and gradients of a shard.
fn backward<O: Objective>(
    objective: &O,
    prepared: O::Prepared,
    packs: &Packs,
) -> Result<(Tensor, vit::Found)> {
    let pass = Pass::training(objective.recomputes()).with(packs.clone());
    let loss = objective.loss(prepared, &pass)?;
    let grads = pass.gradients_apart(&loss)?;
    Ok((loss.detach(), grads))
}

/// Takes the data of some shards in parallel and joins it.
fn joined<O: Objective>(
    objective: &O,
    part: Range<usize>,
    take: &(dyn Fn(usize) -> Result<O::Prepared> + Sync),
) -> Result<O::Prepared> {
    let (first, mut all) = (part.start, Vec::with_capacity(part.len()));
    let put = |_, prepared| {
        all.push(prepared);
        Ok(())
    };
    let ahead = rayon::current_num_threads();
    in_order(part.len(), ahead, |index| take(first + index), put)?;
    objective.join(all)
}

/// Adds a gradient to `total`, or overwrites `total` if the gradient is the first.
fn add_tensor(total: &mut Vec<f32>, grad: &Tensor, first: bool) -> Result<()> {
    let grad = grad.contiguous()?;
    let grad = read(&grad)?;
    if first {
        total.clear();
        total.extend_from_slice(&grad);
    } else {
        add(total, &grad);
    }
    Ok(())
}
