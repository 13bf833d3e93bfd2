//! The gradient of a batch: shards claimed in order by the threads, added in order to buffers that stay from step to step.

use std::ops::Range;

use candle_core::Tensor;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::kernels::read;
use crate::kernels::simd::add;
use crate::ordered::in_order;
use crate::train::Objective;
use crate::vit::{self, Pass};
use crate::{Error, ParamStore, Result};

/// How those who train one model together share a batch and add up what they found: the seam for several devices. All that a
/// step exchanges goes through it.
pub(crate) trait Reduction: Sync {
    /// Which of a batch's `shards` are computed here.
    fn mine(&self, shards: usize) -> Range<usize>;
    /// Makes `loss` and the gradients `flat` of [`mine`](Self::mine) the sums over all who take part, the same bytes for each.
    ///
    /// # Errors
    /// When another cannot be reached.
    fn sum(&self, loss: &mut f64, flat: &mut [Vec<f32>]) -> Result<()>;
}

/// One process on one device, which does everything.
pub(crate) struct Alone;

impl Reduction for Alone {
    fn mine(&self, shards: usize) -> Range<usize> {
        0..shards
    }

    fn sum(&self, _: &mut f64, _: &mut [Vec<f32>]) -> Result<()> {
        Ok(())
    }
}

/// One gradient per trainable variable, in order.
pub(crate) struct Gradients<'a> {
    reduction: &'a dyn Reduction,
    flat: Vec<Vec<f32>>,
}

impl<'a> Gradients<'a> {
    /// None yet.
    pub(crate) fn new(reduction: &'a dyn Reduction) -> Self {
        Self {
            reduction,
            flat: Vec::new(),
        }
    }

    /// The last batch's.
    pub(crate) fn flat(&self) -> &[Vec<f32>] {
        &self.flat
    }

    /// Mean loss of the batch; its gradient is then in [`flat`](Self::flat).
    ///
    /// # Errors
    /// The first shard's, by order; [`Error::Config`] when a trainable variable gets no gradient.
    pub(crate) fn of(
        &mut self,
        params: &ParamStore,
        objective: &dyn Objective,
        epoch: usize,
        step: usize,
        batch: &[usize],
    ) -> Result<f64> {
        let shards = objective.shards(batch.len());
        if shards.is_empty() {
            return Err(Error::Data("a batch without images".into()));
        }
        let mine = &shards[self.reduction.mine(shards.len())];
        let make = |index: usize| -> Result<(f64, vit::Found)> {
            let pass = Pass::training(objective.recomputes());
            let loss = objective.loss(epoch, step, batch, &mine[index], &pass)?;
            let grads = pass.gradients_apart(&loss)?;
            Ok((f64::from(loss.to_scalar::<f32>()?), grads))
        };
        let mut total = 0.0;
        let take = |index: usize, (loss, grads): (f64, vit::Found)| {
            total += loss;
            self.add(params, grads, index == 0)
        };
        // No more gradients wait than there are threads.
        in_order(mine.len(), rayon::current_num_threads(), make, take)?;
        if mine.is_empty() {
            let zeros = params
                .trainable()
                .map(|(_, var)| vec![0.0; var.elem_count()]);
            self.flat = zeros.collect();
        }
        self.reduction.sum(&mut total, &mut self.flat)?;
        Ok(total)
    }

    fn add(&mut self, params: &ParamStore, mut grads: vit::Found, first: bool) -> Result<()> {
        self.flat.resize_with(params.trainable().count(), Vec::new);
        let mut sums = Vec::with_capacity(self.flat.len());
        for ((name, var), total) in params.trainable().zip(&mut self.flat) {
            let block = grads.blocks.remove(&var.id());
            let graph = grads.graph.get(var);
            if block.is_none() && graph.is_none() {
                return Err(Error::Config(format!("parameter `{name}` got no gradient")));
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
