//! The resume state of a training loop: when it is written, and its file.
//!
//! One safetensors file holds every variable as `param.NAME`, the optimiser's numbers as `KIND.NAME`, and in its metadata where the run was.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::optim::Optimizer;
use crate::params::{self, Array, ParamStore};

/// Key of the position in the file's metadata.
const POSITION: &str = "position";

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

/// Writes the resume state, and only a good one.
pub(crate) struct Checkpoint<'a> {
    saved: &'a Saved,
    every: Duration,
    /// When the last one was written; `None` as long as there is none at all.
    last: Option<Instant>,
}

impl<'a> Checkpoint<'a> {
    /// Of a file, written when `every` has passed since the last time.
    pub fn of(saved: &'a Saved, every: Duration) -> Self {
        Self {
            saved,
            every,
            last: saved.exists().then(Instant::now),
        }
    }

    /// Writes it where it is due, or where there is none yet. Called when a step has just shown that the parameters give a finite loss and
    /// finite gradients, before they move: what an update made of them is not known before the next step.
    pub fn write(
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
    pub fn leave(
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

/// Where a run is.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Epochs done.
    pub epoch: usize,
    /// Steps of this one that are done.
    pub step: usize,
    /// Rate of the last.
    pub lr: f64,
    /// Losses of this epoch's steps that were not skipped, added up.
    pub loss_sum: f64,
    /// Steps of this epoch that were skipped.
    pub skipped: usize,
    /// The epochs done.
    pub history: Vec<EpochRecord>,
}

impl Position {
    /// Steps of the whole run that were skipped.
    pub fn all_skipped(&self) -> usize {
        let before = self.history.iter().map(|epoch| epoch.skipped_steps);
        before.sum::<usize>() + self.skipped
    }

    /// At the beginning of the next epoch.
    pub fn after_epoch(mut self, per_epoch: usize) -> Self {
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

/// The file of a resume state; `None` keeps none.
pub(crate) struct Saved(Option<PathBuf>);

/// What a file holds, all of which fits the run.
struct Found {
    tensors: HashMap<String, Array>,
    position: Position,
    /// Steps that the optimiser has made.
    steps: u64,
}

impl Saved {
    /// In `folder`.
    pub fn at(folder: Option<&Path>) -> Self {
        Self(folder.map(|f| f.join("state.safetensors")))
    }

    fn exists(&self) -> bool {
        self.0.as_ref().is_some_and(|path| path.exists())
    }

    /// Where training can go on from, for messages.
    pub fn name(&self) -> String {
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
        for (name, var) in params.variables() {
            let values = var.flatten_all()?.to_vec1()?;
            tensors.push((format!("param.{name}"), var.dims().to_vec(), values));
        }
        let about =
            serde_json::to_string(&(position, steps)).map_err(|e| Error::Config(e.to_string()))?;
        params::write_state(path, tensors, [(POSITION.to_owned(), about)].into())
    }

    /// Takes the state back; `None` where there is none. One that cannot be read, or is another version's, is removed, and `note` says so:
    /// training begins anew.
    ///
    /// # Errors
    /// When a device refuses.
    pub fn load(
        &self,
        params: &ParamStore,
        optimizer: &mut dyn Optimizer,
        note: &dyn Fn(&str),
    ) -> Result<Option<Position>> {
        let Some(path) = self.0.as_ref().filter(|p| p.exists()) else {
            return Ok(None);
        };
        let found = match Found::read(path, params, optimizer) {
            Ok(found) => found,
            Err(error) => {
                note(&format!(
                    "training starts anew, as its saved state cannot be used: {error}"
                ));
                // Where it cannot be removed, the first good step replaces it or says why not.
                fs::remove_file(path).ok();
                return Ok(None);
            }
        };
        let mut tensors = found.tensors;
        let mut take = |name: &str| tensors.remove(name).map(|(_, values)| values);
        for (name, var) in params.variables() {
            if let Some(values) = take(&format!("param.{name}")) {
                var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
            }
        }
        params.refresh()?;
        optimizer.restore(&mut take, found.steps)?;
        Ok(Some(found.position))
    }
}

impl Found {
    /// Nothing of the run is changed.
    fn read(path: &Path, params: &ParamStore, optimizer: &dyn Optimizer) -> Result<Self> {
        let (tensors, metadata) = params::read_state(path)?;
        let refuse = |message: String| Error::Checkpoint {
            path: path.to_owned(),
            message,
        };
        let about = metadata
            .get(POSITION)
            .ok_or_else(|| refuse("lacks the position of the run".into()))?;
        let (position, steps) = serde_json::from_str(about).map_err(|e| refuse(e.to_string()))?;
        let variables = params.variables().map(|(name, var)| ("param", name, var));
        let moments = params
            .trainable()
            .flat_map(|(name, var)| optimizer.kinds().iter().map(move |k| (*k, name, var)));
        for (kind, name, var) in variables.chain(moments) {
            let shape = tensors
                .get(&format!("{kind}.{name}"))
                .map(|(shape, _)| shape);
            if shape.map(Vec::as_slice) != Some(var.dims()) {
                return Err(refuse(format!("lacks `{kind}.{name}`, {:?}", var.dims())));
            }
        }
        Ok(Self {
            tensors,
            position,
            steps,
        })
    }
}
