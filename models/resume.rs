//! The resume state of a training loop.
//!
//! One safetensors file contains every variable as `param.NAME`, the optimiser's state as `KIND.NAME`, and in its metadata the position.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::optim::Optimizer;
use crate::params::{self, Array, ParamStore};

/// Key of the position in the file's metadata.
const POSITION: &str = "position";

/// One epoch, for `history.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 0.
    pub epoch: usize,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Mean loss over the steps that were not skipped; NaN if all were skipped.
    #[serde(deserialize_with = "number_or_nan")]
    pub train_loss: f64,
    /// Steps that were skipped because their loss or gradients were not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_steps: usize,
}

/// JSON has no NaN and stores it as null.
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

/// Writes the resume state when it is due and its parameters are good.
pub(crate) struct Checkpoint<'a> {
    saved: &'a Saved,
    every: Duration,
    /// Time of the last write; `None` if there is no file.
    last: Option<Instant>,
}

impl<'a> Checkpoint<'a> {
    /// Creates a checkpoint that is due when `every` has passed since the last write.
    pub fn of(saved: &'a Saved, every: Duration) -> Self {
        Self {
            saved,
            every,
            last: saved.exists().then(Instant::now),
        }
    }

    /// Writes the state if it is due or does not exist. The loop calls this after a step computed a finite loss and gradient, and before
    /// the update: only the next step shows whether an update produced good parameters.
    pub fn write(
        &mut self,
        params: &ParamStore,
        optimizer: &dyn Optimizer,
        position: &Position,
    ) -> Result<()> {
        if self.last.is_some_and(|last| last.elapsed() < self.every) {
            return Ok(());
        }
        optimizer.settle()?;
        self.saved.save(params, optimizer, position)?;
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Writes the state when the run ends early. If the parameters are not finite, the existing file stays.
    pub fn leave(
        &self,
        params: &ParamStore,
        optimizer: &dyn Optimizer,
        position: &Position,
    ) -> Result<()> {
        optimizer.settle()?;
        match params.is_finite()? {
            true => self.saved.save(params, optimizer, position),
            false => Ok(()),
        }
    }
}

/// The position of a run.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Completed epochs.
    pub epoch: usize,
    /// Completed steps of the present epoch.
    pub step: usize,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Sum of the losses of the epoch's steps that were not skipped.
    pub loss_sum: f64,
    /// Skipped steps of the epoch.
    pub skipped: usize,
    /// Records of the completed epochs.
    pub history: Vec<EpochRecord>,
}

impl Position {
    /// Returns the number of skipped steps of the whole run.
    pub fn all_skipped(&self) -> usize {
        let before = self.history.iter().map(|epoch| epoch.skipped_steps);
        before.sum::<usize>() + self.skipped
    }

    /// Returns the position at the start of the next epoch.
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

/// The file of a resume state; `None` saves none.
pub(crate) struct Saved(Option<PathBuf>);

/// The content of a file that fits the run.
struct Found {
    tensors: HashMap<String, Array>,
    position: Position,
    /// Steps of the optimiser.
    steps: u64,
}

impl Saved {
    /// Names the state's file in `folder`.
    pub fn at(folder: Option<&Path>) -> Self {
        Self(folder.map(|f| f.join("state.safetensors")))
    }

    /// Returns whether there is a file. One that cannot be looked at is there: its reader says why.
    fn exists(&self) -> bool {
        self.0.as_ref().is_some_and(|path| !files::is_absent(path))
    }

    /// Returns the file's path for messages, or "none".
    pub fn name(&self) -> String {
        match &self.0 {
            Some(path) if self.exists() => path.display().to_string(),
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

    /// Restores the state; returns `None` if there is none. If the file is invalid or from another version, it is removed, and `note`
    /// receives a message that training starts anew.
    ///
    /// # Errors
    /// If a copy to the device fails.
    pub fn load(
        &self,
        params: &ParamStore,
        optimizer: &mut dyn Optimizer,
        note: &dyn Fn(&str),
    ) -> Result<Option<Position>> {
        let Some(path) = self.0.as_ref().filter(|_| self.exists()) else {
            return Ok(None);
        };
        let found = match Found::read(path, params, optimizer) {
            Ok(found) => found,
            Err(error) => {
                note(&format!(
                    "training starts anew, because its saved state cannot be used: {error}"
                ));
                // If this fails, the first good step overwrites the file or reports the error.
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
    /// Reads and checks a file without changing the run.
    fn read(path: &Path, params: &ParamStore, optimizer: &dyn Optimizer) -> Result<Self> {
        let (tensors, metadata) = params::read_state(path)?;
        let refuse = |message: String| params::refuse(path, message);
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
