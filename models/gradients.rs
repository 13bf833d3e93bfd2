//! The gradient of a batch: shards claimed in order by the threads, added in order to buffers that stay from step to step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::kernels::simd::vectorized;
use crate::kernels::{self};
use crate::train::Objective;
use crate::{Error, ParamStore, Result};

/// One gradient per trainable variable, in order.
#[derive(Default)]
pub(crate) struct Gradients {
    flat: Vec<Vec<f32>>,
}

impl Gradients {
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
        let one = |shard: &[usize]| -> Result<Shard> {
            let loss = objective.loss(epoch, step, batch, shard)?;
            let grads = loss.backward()?;
            Ok((f64::from(loss.to_scalar::<f32>()?), grads))
        };
        let claimed = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let sum = Mutex::new(Sum::new(params, &mut self.flat));
        rayon::broadcast(|_| {
            while !failed.load(Ordering::Relaxed) {
                let index = claimed.fetch_add(1, Ordering::Relaxed);
                let Some(shard) = shards.get(index) else {
                    return;
                };
                let done = one(shard);
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                if sum.take(index, done).is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        });
        sum.into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .finish()
    }
}

/// A shard's loss and gradients.
type Shard = (f64, GradStore);

/// Shards added in order; those that come early wait.
struct Sum<'a> {
    params: &'a ParamStore,
    total: &'a mut Vec<Vec<f32>>,
    loss: f64,
    added: usize,
    waiting: BTreeMap<usize, Result<Shard>>,
}

impl<'a> Sum<'a> {
    fn new(params: &'a ParamStore, total: &'a mut Vec<Vec<f32>>) -> Self {
        Self {
            params,
            total,
            loss: 0.0,
            added: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Takes shard `index`; an error says only that there is no point in going on.
    fn take(&mut self, index: usize, shard: Result<Shard>) -> std::result::Result<(), ()> {
        self.waiting.insert(index, shard);
        while let Some(Ok(_)) = self.waiting.get(&self.added) {
            let Some(Ok(shard)) = self.waiting.remove(&self.added) else {
                break;
            };
            if let Err(error) = self.add(&shard) {
                self.waiting.insert(self.added, Err(error));
                break;
            }
            self.added += 1;
        }
        match self.waiting.values().any(Result::is_err) {
            true => Err(()),
            false => Ok(()),
        }
    }

    fn add(&mut self, (loss, grads): &Shard) -> Result<()> {
        self.loss += loss;
        let first = self.added == 0;
        self.total
            .resize_with(self.params.trainable().count(), Vec::new);
        for ((name, var), total) in self.params.trainable().zip(self.total.iter_mut()) {
            let Some(grad) = grads.get(var) else {
                return Err(Error::Config(format!("parameter `{name}` got no gradient")));
            };
            add_tensor(total, grad, first)?;
        }
        Ok(())
    }

    /// The loss, or the error of the first shard that has one.
    fn finish(self) -> Result<f64> {
        if let Some(error) = self.waiting.into_values().find_map(Result::err) {
            return Err(error);
        }
        match self.added {
            0 => Err(Error::Data("a batch without images".into())),
            _ => Ok(self.loss),
        }
    }
}

/// Adds a gradient to `total`, or puts it there when it is the first.
fn add_tensor(total: &mut Vec<f32>, grad: &Tensor, first: bool) -> Result<()> {
    let grad = grad.contiguous()?;
    let grad = kernels::read(&grad)?;
    if first {
        total.clear();
        total.extend_from_slice(&grad);
        return Ok(());
    }
    vectorized(
        #[inline(always)]
        || total.iter_mut().zip(grad.iter()).for_each(|(t, g)| *t += g),
    );
    Ok(())
}
