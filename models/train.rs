//! The training loop: steps, progress, interruption, checkpoints, resume.
//!
//! Pretraining and fine-tuning cut a batch into shards of a few images, by the model and the task, never by the machine. Each shard's
//! forward and backward run on one thread; the gradients are added in shard order, a few at most waiting for their turn. So the result
//! is the same on any number of threads, and, as every random draw is keyed by (seed, epoch, image), after any interruption. The
//! linear probe gives the loop the gradient of a whole batch (`Learner`).
//!
//! A step whose loss or gradients are not finite changes nothing and is counted; [`MOST_SKIPPED`] in a row end the run.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use candle_core::Tensor;

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::feed::{Batches, Feed, feed};
use crate::gradients::{Alone, Gradient, Gradients, Reduction as _};
use crate::objective::{Objective, Settings};
use crate::optim::{Group, Optimizer, Slot};
use crate::params::ParamStore;
use crate::resume::{Checkpoint, EpochRecord, Position, Saved};

/// What a training loop is given besides its task. The default computes on the CPU, keeps no state and reports nothing.
pub struct RunContext<'a> {
    /// Folder for resume state; `None` keeps none.
    pub state: Option<&'a Path>,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Called after every step.
    pub progress: &'a (dyn Fn(&Progress) + Sync),
    /// Called with a line for the user.
    pub note: &'a (dyn Fn(&str) + Sync),
    /// Asked before every step.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// Where and in which type the model computes.
    pub compute: Compute,
    /// Threads that make the data of coming steps; 0: the training threads do, each for its own shard.
    pub workers: usize,
}

impl Default for RunContext<'_> {
    fn default() -> Self {
        Self {
            state: None,
            checkpoint_every: Duration::MAX,
            progress: &|_| (),
            note: &|_| (),
            interrupted: &|| false,
            compute: Compute::default(),
            workers: 0,
        }
    }
}

/// Where training is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// All steps.
    pub steps: usize,
    /// Mean loss of the last step; not finite when it was skipped.
    pub loss: f64,
    /// Steps skipped so far, whose loss or gradients were not finite.
    pub skipped: usize,
}

/// So many skipped steps in a row end a run. A broken image spoils one step, a hiccup of a device a few; every step has other images
/// and finds the same weights, so after five it is the weights, and no later step can mend them.
pub const MOST_SKIPPED: usize = 5;

/// Gives a training loop the loss and the gradient of each step.
pub(crate) trait Learner {
    /// Mean loss of step `now` of the run, whose gradient is then in [`gradient`](Self::gradient). Not finite where the step is to change
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and what the data source says.
    fn loss(&mut self, now: usize) -> Result<f64>;
    /// The last step's.
    fn gradient(&self) -> &Gradient;
    /// The optimiser has moved the variables along the last gradient.
    ///
    /// # Errors
    /// When what goes with the variables cannot be set.
    fn moved(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The trainable variables with their groups.
pub(crate) fn slots(params: &ParamStore, group: impl Fn(&str, &Tensor) -> Group) -> Vec<Slot> {
    let slots = params.trainable().map(|(name, var)| Slot {
        name: name.to_owned(),
        var: var.clone(),
        group: group(name, var.as_tensor()),
    });
    slots.collect()
}

/// Trains `params` in place by `objective`, shard by shard.
pub(crate) fn train<O: Objective>(
    params: &ParamStore,
    optimizer: &mut dyn Optimizer,
    objective: &O,
    settings: &Settings,
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let batches = Batches::new(settings);
    let training = Training::begin(params, optimizer, settings, &batches, cx)?;
    let reduction = Alone;
    let mine = |shards| reduction.mine(shards);
    let mut gradients = Gradients::new(params, &reduction)?;
    let steps = training.steps();
    feed(objective, &batches, steps, mine, cx.workers, |feed| {
        let mut learner = ByShards {
            params,
            objective,
            gradients: &mut gradients,
            feed,
        };
        training.run(optimizer, &mut learner)
    })
}

/// Steps cut into shards.
struct ByShards<'a, 'g, O: Objective> {
    params: &'a ParamStore,
    objective: &'a O,
    gradients: &'a mut Gradients<'g>,
    feed: &'a Feed<'a, O::Prepared>,
}

impl<O: Objective> Learner for ByShards<'_, '_, O> {
    fn loss(&mut self, now: usize) -> Result<f64> {
        let (feed, shards) = (self.feed, self.feed.shards());
        let take = |shard| feed.take(now, shard);
        self.gradients
            .of(self.params, self.objective, shards, &take)
    }

    fn gradient(&self) -> &Gradient {
        self.gradients.gradient()
    }
}

/// A run of the loop, from its beginning or from where an earlier one ended.
pub(crate) struct Training<'a> {
    params: &'a ParamStore,
    settings: &'a Settings,
    cx: &'a RunContext<'a>,
    saved: Saved,
    per_epoch: usize,
    start: Position,
}

impl<'a> Training<'a> {
    /// Takes the resume state back where there is one.
    pub fn begin(
        params: &'a ParamStore,
        optimizer: &mut dyn Optimizer,
        settings: &'a Settings,
        batches: &Batches,
        cx: &'a RunContext<'a>,
    ) -> Result<Self> {
        let saved = Saved::at(cx.state);
        Ok(Self {
            start: saved.load(params, optimizer, cx.note)?.unwrap_or_default(),
            params,
            settings,
            cx,
            saved,
            per_epoch: batches.per_epoch(),
        })
    }

    /// The steps that are left.
    pub fn steps(&self) -> Range<usize> {
        self.start.epoch * self.per_epoch + self.start.step..self.all_steps()
    }

    fn all_steps(&self) -> usize {
        self.settings.epochs * self.per_epoch
    }

    /// Makes them all.
    pub fn run(
        &self,
        optimizer: &mut dyn Optimizer,
        learner: &mut dyn Learner,
    ) -> Result<Vec<EpochRecord>> {
        let mut position = self.start.clone();
        let mut checkpoint = Checkpoint::of(&self.saved, self.cx.checkpoint_every);
        // Where the last step that was not skipped left it: a run goes on from there, and skips again what it skipped since.
        let (mut good, mut in_row) = (position.clone(), 0);
        for epoch in position.epoch..self.settings.epochs {
            for step in position.step..self.per_epoch {
                let now = epoch * self.per_epoch + step;
                let loss = match (self.cx.interrupted)() {
                    true => Err(Error::Interrupted),
                    false => learner.loss(now),
                };
                if matches!(loss, Err(Error::Interrupted)) {
                    checkpoint.leave(self.params, optimizer, &good)?;
                }
                let loss = loss?;
                let at = epoch as f64 + step as f64 / self.per_epoch as f64;
                (position.step, position.lr) = (step + 1, self.settings.schedule.at(at));
                if loss.is_finite() {
                    checkpoint.write(self.params, optimizer, &good)?;
                    optimizer.step(learner.gradient(), position.lr)?;
                    self.params.refresh()?;
                    learner.moved()?;
                    position.loss_sum += loss;
                    (good, in_row) = (position.clone(), 0);
                } else {
                    position.skipped += 1;
                    in_row += 1;
                }
                self.report(now, loss, in_row, position.all_skipped())?;
            }
            position = position.after_epoch(self.per_epoch);
        }
        match self.params.is_finite()? {
            true => Ok(position.history),
            false => Err(Error::Spoilt {
                last_good: self.saved.name(),
            }),
        }
    }

    /// Says what step `now` came to, and ends the run after too many skipped steps in a row. At a run's end two are too many: two batches one
    /// after the other that the weights give no loss for, and none left to show that they were the batches' fault.
    fn report(&self, now: usize, loss: f64, in_row: usize, skipped: usize) -> Result<()> {
        let (step, steps) = (now + 1, self.all_steps());
        (self.cx.progress)(&Progress {
            step,
            steps,
            loss,
            skipped,
        });
        if in_row == MOST_SKIPPED || step == steps && in_row > 1 {
            return Err(Error::NotFinite {
                loss,
                in_row,
                step: now,
                last_good: self.saved.name(),
            });
        }
        Ok(())
    }
}
