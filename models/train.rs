//! The training loop: steps, progress, interruption, checkpoints, resume.
//!
//! Pretraining and fine-tuning split a batch into shards of a few images; the split depends on the model and the task, never on the
//! machine. Each shard's forward and backward run on one thread, and gradients are added in shard order, so the result does not depend on
//! the number of threads. Every random draw is keyed by (seed, epoch, image), so the result does not depend on interruptions either. The
//! linear probe computes the gradient of a whole batch at once (`Learner`).
//!
//! A step whose loss or gradients are not finite changes nothing and is counted; [`MOST_SKIPPED`] such steps in a row end the run.

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

/// The environment of a training loop. The default computes on the CPU, saves no state and reports nothing.
pub struct RunContext<'a> {
    /// Folder for the resume state; `None` saves none.
    pub state: Option<&'a Path>,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Called after every step.
    pub progress: &'a (dyn Fn(&Progress) + Sync),
    /// Called with messages for the user.
    pub note: &'a (dyn Fn(&str) + Sync),
    /// Called before every step; true stops the run.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// Device and number type of the model.
    pub compute: Compute,
    /// Threads that prepare the data of future steps; 0: each training thread prepares its own shards.
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

/// Progress of training.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Total number of steps.
    pub steps: usize,
    /// Mean loss of the last step; not finite if it was skipped.
    pub loss: f64,
    /// Steps skipped so far because their loss or gradients were not finite.
    pub skipped: usize,
}

/// This many skipped steps in a row end a run. A broken image affects one step, a transient device error a few. Skipped steps have
/// different images and the same weights, so after five of them the weights are the cause, and no later step can repair them.
pub const MOST_SKIPPED: usize = 5;

/// Computes the loss and the gradient of each step for a training loop.
pub(crate) trait Learner {
    /// Computes the mean loss of step `now` of the run and stores its [`gradient`](Self::gradient). The loop skips a step whose loss is not
    /// finite.
    ///
    /// # Errors
    /// [`Error::Interrupted`], or an error of the data source.
    fn loss(&mut self, now: usize) -> Result<f64>;
    /// Gradient of the last step.
    fn gradient(&self) -> &Gradient;
    /// Called after the optimiser updated the variables with the last gradient.
    ///
    /// # Errors
    /// If state that belongs to the variables cannot be set.
    fn moved(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Returns the trainable variables with their groups.
pub(crate) fn slots(params: &ParamStore, group: impl Fn(&str, &Tensor) -> Group) -> Vec<Slot> {
    let slots = params.trainable().map(|(name, var)| Slot {
        name: name.to_owned(),
        var: var.clone(),
        group: group(name, var.as_tensor()),
    });
    slots.collect()
}

/// Minimises `objective` over `params` in place, shard by shard.
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
    let shards = objective.shards(batches.size());
    let mine = &shards[reduction.mine(shards.len())];
    let mut gradients = Gradients::new(params, &reduction)?;
    let steps = training.steps();
    let loaders = (cx.workers, objective.together().is_some());
    feed(objective, &batches, steps, mine, loaders, |feed| {
        let mut learner = ByShards {
            params,
            objective,
            gradients: &mut gradients,
            feed,
        };
        training.run(optimizer, &mut learner)
    })
}

/// Computes steps in shards.
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

/// A run of the training loop, new or resumed.
pub(crate) struct Training<'a> {
    params: &'a ParamStore,
    settings: &'a Settings,
    cx: &'a RunContext<'a>,
    saved: Saved,
    per_epoch: usize,
    start: Position,
}

impl<'a> Training<'a> {
    /// Restores the resume state if it exists.
    pub fn begin(
        params: &'a ParamStore,
        optimizer: &mut dyn Optimizer,
        settings: &'a Settings,
        batches: &Batches,
        cx: &'a RunContext<'a>,
    ) -> Result<Self> {
        let saved = Saved::at(cx.state);
        let training = Self {
            start: saved.load(params, optimizer, cx.note)?.unwrap_or_default(),
            params,
            settings,
            cx,
            saved,
            per_epoch: batches.per_epoch(),
        };
        training.check_rates()?;
        let steps = training.steps();
        if steps.start > 0 {
            (cx.note)(&format!(
                "  continues after step {} of {}",
                steps.start, steps.end
            ));
        }
        Ok(training)
    }

    /// Refuses a run whose only step is the first of the warm-up: its rate is 0, so nothing would be learned.
    fn check_rates(&self) -> Result<()> {
        let Settings {
            epochs,
            batch,
            len,
            schedule,
            ..
        } = self.settings;
        let rate = |step: usize| schedule.at(step as f64 / self.per_epoch as f64);
        let moves = (0..self.all_steps()).any(|step| rate(step) > 0.0);
        match moves || schedule.lr == 0.0 {
            true => Ok(()),
            false => Err(Error::Config(format!(
                "all steps have rate 0, so training would change nothing: found {len} images, batch {batch}, {epochs} epochs and {} epochs of \
                 warm-up; expected a smaller batch, more epochs, or warmup_epochs: 0",
                schedule.warmup_epochs
            ))),
        }
    }

    /// Returns the remaining steps.
    pub fn steps(&self) -> Range<usize> {
        self.start.epoch * self.per_epoch + self.start.step..self.all_steps()
    }

    fn all_steps(&self) -> usize {
        self.settings.epochs * self.per_epoch
    }

    /// Runs the remaining steps.
    pub fn run(
        &self,
        optimizer: &mut dyn Optimizer,
        learner: &mut dyn Learner,
    ) -> Result<Vec<EpochRecord>> {
        let mut position = self.start.clone();
        let mut checkpoint = Checkpoint::of(&self.saved, self.cx.checkpoint_every);
        // The position after the last good step. A resumed run starts there and skips the later bad steps again.
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
        optimizer.settle()?;
        match self.params.is_finite()? {
            true => Ok(position.history),
            false => Err(Error::Spoilt {
                last_good: self.saved.name(),
            }),
        }
    }

    /// Reports step `now`, and ends the run after too many skipped steps in a row. At a run's end two are too many, because no later step
    /// can show whether the images or the weights are the cause.
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
                step,
                last_good: self.saved.name(),
            });
        }
        Ok(())
    }
}
