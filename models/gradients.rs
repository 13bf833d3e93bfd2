//! The gradient of a batch: shards added in order, whoever was faster, to sums that stay where the parameters are.
//!
//! On the CPU in f32, shards are claimed in order by the threads and added to lists that stay from step to step. Elsewhere the sums are
//! one f32 tensor, as the optimisers' launches take it; on a device, where threads would only share its memory, as many shards as
//! fit are joined and computed one part after the other.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::objective::Objective;
use crate::ordered::in_order;
use crate::params::ParamStore;
use crate::vit::{self, Pass};
use tessera_kernels::ops::flat::{CHUNK, Flat};
use tessera_kernels::ops::values::read;
use tessera_kernels::simd::{add, sum, vectorized};

/// A gradient of all trainable variables in order, summed in f32 where they are.
#[derive(Clone, Debug)]
pub enum Gradient {
    /// A list per variable, on the CPU.
    Lists(Vec<Vec<f32>>),
    /// All in one f32 tensor `[len]`, as [`Flat`] lays them out.
    Flat(Tensor),
}

/// A batch's mean loss.
#[derive(Clone, Debug)]
pub(crate) enum Loss {
    /// On the CPU.
    Number(f64),
    /// Where the gradient is, f32: read back once, with the check.
    There(Tensor),
}

/// What a batch gives.
#[derive(Clone, Debug)]
pub(crate) struct BatchSums {
    /// Mean over the batch.
    pub loss: Loss,
    /// Of the mean.
    pub gradient: Gradient,
}

impl Gradient {
    /// Of variables of these lengths, as `compute` has it, from one gradient each.
    ///
    /// # Errors
    /// When a copy fails.
    pub(crate) fn of(compute: &Compute, flat: &Flat, each: &[&Tensor]) -> Result<Self> {
        if compute.is_composed() {
            return Ok(Self::Flat(in_one(flat, each, compute.device())?));
        }
        let lists = each
            .iter()
            .map(|grad| Ok(read(&grad.contiguous()?)?.to_vec()));
        Ok(Self::Lists(lists.collect::<Result<_>>()?))
    }

    /// All zeros.
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
    /// The loss, or a NaN when it is finite and a number of the gradient is not. From a device it is the one number that is read back.
    ///
    /// # Errors
    /// When reading back fails: what was launched before did.
    pub(crate) fn checked_loss(&self) -> Result<f64> {
        let zero = match &self.gradient {
            Gradient::Lists(lists) => Loss::Number(lists.par_iter().map(|list| zero(list)).sum()),
            Gradient::Flat(all) => {
                // As many rows as a device adds up side by side.
                let rows = all.reshape((all.elem_count() / CHUNK as usize, CHUNK as usize))?;
                Loss::There((rows * 0.0)?.sum(1)?.sum_all()?)
            }
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

/// 0, or a NaN when a number is not finite.
fn zero(list: &[f32]) -> f64 {
    let zero = vectorized(
        #[inline(always)]
        || sum(list.len(), |i| list[i] * 0.0),
    );
    f64::from(zero)
}

/// Gradients in one tensor, in f32.
fn in_one(flat: &Flat, each: &[&Tensor], device: &Device) -> Result<Tensor> {
    let all = Tensor::zeros(flat.len(), DType::F32, device)?;
    for (at, grad) in each.iter().enumerate() {
        let grad = grad.detach().flatten_all()?.to_dtype(DType::F32)?;
        all.slice_set(&grad.contiguous()?, 0, flat.starts[at])?;
    }
    Ok(all)
}

/// How those who train one model together share a batch and add up what they found: the seam for several devices. All that a
/// step exchanges goes through it.
pub(crate) trait Reduction: Sync {
    /// Which of a batch's `shards` are computed here.
    fn mine(&self, shards: usize) -> Range<usize>;
    /// Makes the loss and gradient of [`mine`](Self::mine) the sums over all who take part, the same bytes for each.
    ///
    /// # Errors
    /// When another cannot be reached.
    fn sum(&self, sums: &mut BatchSums) -> Result<()>;
}

/// One process on one device, which does everything.
pub(crate) struct Alone;

impl Reduction for Alone {
    fn mine(&self, shards: usize) -> Range<usize> {
        0..shards
    }

    fn sum(&self, _: &mut BatchSums) -> Result<()> {
        Ok(())
    }
}

/// How the variables' gradients lie in one buffer.
pub(crate) fn layout(params: &ParamStore) -> Flat {
    let lengths = params.trainable().map(|(_, var)| var.elem_count());
    Flat::of(&lengths.collect::<Vec<_>>())
}

/// The sums over a batch, whose memory stays from step to step.
pub(crate) struct Gradients<'a> {
    reduction: &'a dyn Reduction,
    flat: Flat,
    sums: BatchSums,
}

impl<'a> Gradients<'a> {
    /// None yet of `params`.
    ///
    /// # Errors
    /// When there is no room for them.
    pub(crate) fn new(params: &ParamStore, reduction: &'a dyn Reduction) -> Result<Self> {
        let flat = layout(params);
        Ok(Self {
            reduction,
            sums: BatchSums {
                loss: Loss::Number(0.0),
                gradient: Gradient::none(params.compute(), &flat)?,
            },
            flat,
        })
    }

    /// The last batch's.
    pub(crate) fn gradient(&self) -> &Gradient {
        &self.sums.gradient
    }

    /// Mean loss of a batch, of which `shards` shards are computed here; its gradient is then in [`gradient`](Self::gradient). `take`
    /// gives each shard's data once. A loss that is not finite, or a NaN: the batch is not to be learned from.
    ///
    /// # Errors
    /// The first shard's, by order; [`Error::Config`] when a trainable variable gets no gradient.
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
                    let made = backward(objective, joined)?;
                    self.add(params, made, first == 0)?;
                }
            }
            None => {
                let make = |index: usize| backward(objective, take(index)?);
                let add = |index: usize, made| self.add(params, made, index == 0);
                // No more gradients wait than there are threads.
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
        }
        Ok(())
    }
}

fn no_gradient(name: &str) -> Error {
    Error::Config(format!("parameter `{name}` got no gradient"))
}

/// Adds a shard's gradients to `lists`, or puts them there when they are the first.
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
    // After a batch's last shard the other threads have nothing else to do.
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

/// Loss, f32, and gradients of a shard.
fn backward<O: Objective>(objective: &O, prepared: O::Prepared) -> Result<(Tensor, vit::Found)> {
    let pass = Pass::training(objective.recomputes());
    let loss = objective.loss(prepared, &pass)?;
    let grads = pass.gradients_apart(&loss)?;
    Ok((loss.detach(), grads))
}

/// The data of some shards, made side by side, as one.
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

/// Adds a gradient to `total`, or puts it there when it is the first.
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
