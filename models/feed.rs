//! Input of a training loop: the images of each step, and their data, prepared in advance on loader threads.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::ahead::{Ahead, ahead, most};
use crate::error::{Error, Result};
use crate::objective::{Objective, Settings};
use crate::rng::keyed_rng;

/// The batches of a run, indexed by the step from the start of training.
pub(crate) struct Batches {
    len: usize,
    batch: usize,
    seed: u64,
    name: &'static str,
    /// Orders of the most recently used epochs: loaders can be one epoch ahead.
    orders: Mutex<Vec<(usize, Arc<Vec<usize>>)>>,
}

/// The images of a step, a range of its epoch's order.
pub(crate) struct Batch {
    order: Arc<Vec<usize>>,
    part: Range<usize>,
}

impl Deref for Batch {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.order[self.part.clone()]
    }
}

impl Batches {
    /// Creates the batches of a run with `settings`.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            len: settings.len,
            batch: settings.batch,
            seed: settings.seed,
            name: settings.order,
            orders: Mutex::default(),
        }
    }

    /// Steps per epoch. An incomplete last batch is dropped unless it is the only batch.
    pub(crate) fn per_epoch(&self) -> usize {
        (self.len / self.batch).max(1)
    }

    /// Images per step.
    pub(crate) fn size(&self) -> usize {
        self.batch.min(self.len)
    }

    /// Returns the indices of the images of step `now`.
    pub(crate) fn of(&self, now: usize) -> Batch {
        let (epoch, step) = (now / self.per_epoch(), now % self.per_epoch());
        Batch {
            order: self.order(epoch),
            part: step * self.size()..(step + 1) * self.size(),
        }
    }

    fn order(&self, epoch: usize) -> Arc<Vec<usize>> {
        const KEPT: usize = 2;
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = orders.iter().find(|(known, _)| *known == epoch) {
            return Arc::clone(order);
        }
        let mut order: Vec<usize> = (0..self.len).collect();
        order.shuffle(&mut keyed_rng(self.seed, self.name, epoch as u64, 0));
        let order = Arc::new(order);
        if orders.len() == KEPT {
            orders.remove(0);
        }
        orders.push((epoch, Arc::clone(&order)));
        order
    }
}

/// The prepared data of future steps, by shard.
pub(crate) struct Feed<'a, P> {
    ahead: &'a Ahead<'a, Result<P>>,
    first: usize,
    shards: usize,
}

impl<P> Feed<'_, P> {
    /// Shards of each step that this process computes.
    pub(crate) fn shards(&self) -> usize {
        self.shards
    }

    /// Takes the data of shard `shard` (below [`shards`](Self::shards)) of step `now`. Each shard can be taken once, in the order of steps.
    ///
    /// # Errors
    /// If preparing the data failed.
    pub(crate) fn take(&self, now: usize, shard: usize) -> Result<P> {
        self.ahead.take((now - self.first) * self.shards + shard)
    }
}

/// Runs `consume` while `workers` threads prepare the data of the steps `steps` in advance; without workers, `consume` prepares it itself.
/// `mine` are the shards of a step that this process computes. With `whole`, a step takes all its shards before it computes, so the queue also
/// holds the next step's shards.
///
/// # Errors
/// An error of `consume`; [`Error::Config`] if threads cannot be started, [`Error::Data`] without images.
pub(crate) fn feed<O: Objective, R>(
    objective: &O,
    batches: &Batches,
    steps: Range<usize>,
    mine: &[Vec<usize>],
    (workers, whole): (usize, bool),
    consume: impl FnOnce(&Feed<'_, O::Prepared>) -> Result<R>,
) -> Result<R> {
    if batches.size() == 0 {
        return Err(Error::Data("the batch has no images".into()));
    }
    let make = |index: usize| {
        let now = steps.start + index / mine.len();
        let shard = &mine[index % mine.len()];
        objective.prepare(now / batches.per_epoch(), now, &batches.of(now), shard)
    };
    let count = steps.len() * mine.len();
    let consume = |ahead: &Ahead<'_, _>| {
        consume(&Feed {
            ahead,
            first: steps.start,
            shards: mine.len(),
        })
    };
    let at_once = if whole { mine.len() } else { 0 };
    let fed = ahead(count, workers, most(workers, at_once), make, consume);
    fed.map_err(|e| Error::Config(format!("cannot start {workers} loader threads: {e}")))?
}
