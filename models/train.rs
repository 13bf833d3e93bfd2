//! The training loop: shards side by side, gradients summed in shard order, checkpoints, resume.
//!
//! A batch is cut into shards of a few images, by the model and the task, never by the machine. Each shard's forward and
//! backward run on one thread; the gradients are added in shard order, a few at most waiting for their turn. So the result is the
//! same on any number of threads, and, as every random draw is keyed by
//! (seed, epoch, image), after any interruption.
//!
//! A step whose loss or gradients are not finite changes nothing and is counted; [`MOST_SKIPPED`] in a row end the run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::feed::{Batches, Feed, feed};
use crate::gradients::{Alone, Gradients, Reduction as _};
use crate::optim::{Group, Optimizer, Schedule, Slot};
use crate::params;
use crate::vit::Pass;
use crate::{Compute, Error, ParamStore, Result};

/// What a training loop is given besides its task.
pub struct RunContext<'a> {
    /// Folder for resume state; `None` keeps none.
    pub state: Option<&'a Path>,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Told after every step.
    pub progress: &'a (dyn Fn(&Progress) + Sync),
    /// Asked before every step.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// Where and in which type the model computes.
    pub compute: Compute,
    /// Threads that make the data of coming steps; 0: the training threads do, each for its own shard.
    pub workers: usize,
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

/// One epoch, for `history.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 0.
    pub epoch: usize,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Mean loss over its steps, those skipped left out; a NaN when all were.
    #[serde(deserialize_with = "number_or_nan")]
    pub train_loss: f64,
    /// Steps that changed nothing, as their loss or gradients were not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_steps: usize,
}

/// JSON has no NaN: it is written as null.
fn number_or_nan<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's form of a condition"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// So many skipped steps in a row end a run. A broken image spoils one step, a hiccup of a device a few; every step has other images
/// and finds the same weights, so after five it is the weights, and no later step can mend them.
pub const MOST_SKIPPED: usize = 5;

/// Whether to give up after so many skipped steps in a row. At a run's end two are enough: two batches one after the other that the
/// weights give no loss for, and none left to show that they were the batches' fault.
pub(crate) fn is_over(in_row: usize, at_end: bool) -> bool {
    in_row == MOST_SKIPPED || at_end && in_row > 1
}

/// How long and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub epochs: usize,
    pub batch: usize,
    pub len: usize,
    pub seed: u64,
    pub schedule: Schedule,
}

/// What is minimised.
pub(crate) trait Objective: Sync {
    /// What a shard's loss is computed from: images, what is predicted, all that is drawn for them.
    type Prepared: Send;

    /// Cuts a batch of `len` images into shards of positions in the batch: each position once, the same on every machine.
    fn shards(&self, len: usize) -> Vec<Vec<usize>>;
    /// Whether blocks keep only their inputs for the backward: less memory, a third more time.
    fn recomputes(&self) -> bool;
    /// The data of a shard of step `step` of the run: reads, decodes, augments and tokenizes images. It knows no parameter, so it
    /// can be made long before its step.
    ///
    /// `shard` are positions in `batch`, whose entries are indices of images.
    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Self::Prepared>;
    /// How many shards are computed as one where a device takes one part of a batch after the other; `None` where shards run side by
    /// side.
    fn together(&self) -> Option<usize>;
    /// The data of several shards of a batch as of one, where the parameters are.
    ///
    /// # Errors
    /// When there is none, or no room for it.
    fn join(&self, shards: Vec<Self::Prepared>) -> Result<Self::Prepared>;
    /// The sum over the shard's images of each image's loss, over the batch's length: shards add up to the batch's mean.
    fn loss(&self, prepared: Self::Prepared, pass: &Pass) -> Result<Tensor>;
}

/// `len` positions in runs of `size`.
pub(crate) fn runs(len: usize, size: usize) -> Vec<Vec<usize>> {
    let starts = (0..len).step_by(size);
    starts
        .map(|start| (start..(start + size).min(len)).collect())
        .collect()
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

/// Trains `params` in place.
pub(crate) fn train<O: Objective>(
    params: &ParamStore,
    optimizer: &mut dyn Optimizer,
    objective: &O,
    settings: &Settings,
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let saved = Saved::at(cx.state);
    let position = saved.load(params, optimizer)?.unwrap_or_default();
    let batches = Batches::new(settings);
    let per_epoch = batches.per_epoch();
    let steps = position.epoch * per_epoch + position.step..settings.epochs * per_epoch;
    let reduction = Alone;
    let mine = |shards| reduction.mine(shards);
    let training = Training {
        params,
        objective,
        settings,
        cx,
        saved,
        per_epoch,
    };
    let mut gradients = Gradients::new(params, &reduction)?;
    feed(objective, &batches, steps, mine, cx.workers, |feed| {
        training.run(optimizer, &mut gradients, position, feed)
    })
}

/// What stays the same over a run.
struct Training<'a, O> {
    params: &'a ParamStore,
    objective: &'a O,
    settings: &'a Settings,
    cx: &'a RunContext<'a>,
    saved: Saved,
    per_epoch: usize,
}

impl<O: Objective> Training<'_, O> {
    /// All steps from `position` on.
    fn run(
        &self,
        optimizer: &mut dyn Optimizer,
        gradients: &mut Gradients<'_>,
        mut position: Position,
        feed: &Feed<'_, O::Prepared>,
    ) -> Result<Vec<EpochRecord>> {
        let (params, cx, per_epoch) = (self.params, self.cx, self.per_epoch);
        let mut checkpoint = Checkpoint::of(&self.saved, cx.checkpoint_every);
        // Where the last step that was not skipped left it: a run goes on from there, and skips again what it skipped since.
        let (mut good, mut in_row) = (position.clone(), 0);
        for epoch in position.epoch..self.settings.epochs {
            for step in position.step..per_epoch {
                let now = epoch * per_epoch + step;
                if (cx.interrupted)() {
                    checkpoint.leave(params, optimizer, &good)?;
                    return Err(Error::Interrupted);
                }
                let schedule = &self.settings.schedule;
                let lr = schedule.at(epoch as f64 + step as f64 / per_epoch as f64);
                let take = |shard| feed.take(now, shard);
                let loss = gradients.of(params, self.objective, feed.shards(), &take)?;
                (position.step, position.lr) = (step + 1, lr);
                if loss.is_finite() {
                    checkpoint.write(params, optimizer, &good)?;
                    optimizer.step(gradients.gradient(), lr)?;
                    params.refresh()?;
                    position.loss_sum += loss;
                    (good, in_row) = (position.clone(), 0);
                } else {
                    position.skipped += 1;
                    in_row += 1;
                }
                (cx.progress)(&Progress {
                    step: now + 1,
                    steps: self.settings.epochs * per_epoch,
                    loss,
                    skipped: position.all_skipped(),
                });
                if is_over(in_row, now + 1 == self.settings.epochs * per_epoch) {
                    return Err(Error::NotFinite {
                        loss,
                        in_row,
                        step: now,
                        last_good: self.saved.name(),
                    });
                }
            }
            position = position.after_epoch(per_epoch);
        }
        match params.is_finite()? {
            true => Ok(position.history),
            false => Err(Error::Spoilt {
                last_good: self.saved.name(),
            }),
        }
    }
}

/// Writes the resume state, and only a good one.
struct Checkpoint<'a> {
    saved: &'a Saved,
    every: Duration,
    /// When the last one was written; `None` as long as there is none at all.
    last: Option<Instant>,
}

impl<'a> Checkpoint<'a> {
    fn of(saved: &'a Saved, every: Duration) -> Self {
        Self {
            saved,
            every,
            last: saved.exists().then(Instant::now),
        }
    }

    /// Writes it where it is due, or where there is none yet. Called when a step has just shown that the parameters give a finite loss and
    /// finite gradients, before they move: what an update made of them is not known before the next step.
    fn write(
        &mut self,
        params: &ParamStore,
        optimizer: &dyn Optimizer,
        position: &Position,
    ) -> Result<()> {
        if self.last.is_some_and(|last| last.elapsed() < self.every) {
            return Ok(());
        }
        self.saved.save(params, optimizer, position)?;
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Writes it where the run ends early, unless the last update has spoilt the parameters: then what is there stays.
    fn leave(
        &self,
        params: &ParamStore,
        optimizer: &dyn Optimizer,
        position: &Position,
    ) -> Result<()> {
        match params.is_finite()? {
            true => self.saved.save(params, optimizer, position),
            false => Ok(()),
        }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Position {
    epoch: usize,
    step: usize,
    lr: f64,
    loss_sum: f64,
    /// Steps of this epoch that were skipped.
    #[serde(default)]
    skipped: usize,
    history: Vec<EpochRecord>,
}

impl Position {
    /// Steps of the whole run that were skipped.
    fn all_skipped(&self) -> usize {
        let before = self.history.iter().map(|epoch| epoch.skipped_steps);
        before.sum::<usize>() + self.skipped
    }

    /// At the beginning of the next epoch.
    fn after_epoch(mut self, per_epoch: usize) -> Self {
        self.history.push(EpochRecord {
            epoch: self.epoch,
            lr: self.lr,
            train_loss: self.loss_sum / (per_epoch - self.skipped) as f64,
            skipped_steps: self.skipped,
        });
        Self {
            epoch: self.epoch + 1,
            history: self.history,
            ..Self::default()
        }
    }
}

/// Resume state in one file: variables, moments, position.
struct Saved(Option<PathBuf>);

impl Saved {
    fn at(folder: Option<&Path>) -> Self {
        Self(folder.map(|f| f.join("state.safetensors")))
    }

    fn exists(&self) -> bool {
        self.0.as_ref().is_some_and(|path| path.exists())
    }

    fn name(&self) -> String {
        match &self.0 {
            Some(path) if path.exists() => path.display().to_string(),
            _ => "none".into(),
        }
    }

    fn save(
        &self,
        params: &ParamStore,
        optimizer: &dyn Optimizer,
        position: &Position,
    ) -> Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let (mut tensors, steps) = optimizer.state()?;
        for (name, var) in params.trainable() {
            tensors.push((
                format!("param.{name}"),
                var.dims().to_vec(),
                var.flatten_all()?.to_vec1()?,
            ));
        }
        let about =
            serde_json::to_string(&(position, steps)).map_err(|e| Error::Config(e.to_string()))?;
        // Text as numbers: the file's header is not read by our tensor reader.
        let bytes: Vec<f32> = about.bytes().map(f32::from).collect();
        tensors.push(("position".into(), vec![bytes.len()], bytes));
        params::write_state(path, tensors)
    }

    fn load(&self, params: &ParamStore, optimizer: &mut dyn Optimizer) -> Result<Option<Position>> {
        let Some(path) = self.0.as_ref().filter(|p| p.exists()) else {
            return Ok(None);
        };
        let found = params::read_state(path)?;
        let refuse = |message: String| Error::Checkpoint {
            path: path.clone(),
            message,
        };
        let bytes = found
            .get("position")
            .ok_or_else(|| refuse("lacks `position`".into()))?;
        let text: Vec<u8> = bytes.1.iter().map(|v| *v as u8).collect();
        let (position, steps): (Position, u64) =
            serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?;
        for (name, var) in params.trainable() {
            let (shape, values) = found
                .get(&format!("param.{name}"))
                .ok_or_else(|| refuse(format!("lacks `{name}`")))?;
            let values = Tensor::from_vec(values.clone(), shape.as_slice(), var.device())?;
            var.set(&values)?;
        }
        params.refresh()?;
        optimizer.restore(&|name| found.get(name).map(|t| t.1.clone()), steps)?;
        Ok(Some(position))
    }
}
