//! The contract of a stage: its inputs, provenance, cost, computation and outputs.
//!
//! A stage is a pure function of its provenance, which is the key of its result in the store. The name of a stage is part of that
//! key, of `costs.csv` and of the ids of nodes. Only the stage's own file and `tessera_reports`
//! (compared by a test) contain it.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;
use tessera_reports::Record;
use tessera_tokenizers::Tokenizer;

use super::context::{Context, Images, StageError};
use super::encoder::Encoder;
use super::rates::{Cost, Rates};
use crate::metrics::Estimate;
use crate::store::{Entry, Provenance, Workspace};
use crate::suite::Row;

/// A product of one stage that others need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Artifact<'a> {
    /// The tokenizer of a row and a fit, by the index of its seed. Training uses fit 0.
    Tokenizer(&'a str, usize),
    /// The counts of the ids of a row and a fit.
    Counts(&'a str, usize),
    /// The encoder of a row and a seed.
    Encoder(&'a str, u64),
}

impl<'a> Artifact<'a> {
    /// Returns the name of the row that gives it.
    pub fn row(&self) -> &'a str {
        match self {
            Self::Tokenizer(row, _) | Self::Counts(row, _) | Self::Encoder(row, _) => row,
        }
    }

    /// Returns the same artifact of the row `name`.
    pub fn of<'b>(&self, name: &'b str) -> Artifact<'b> {
        match *self {
            Self::Tokenizer(_, fit) => Artifact::Tokenizer(name, fit),
            Self::Counts(_, fit) => Artifact::Counts(name, fit),
            Self::Encoder(_, seed) => Artifact::Encoder(name, seed),
        }
    }
}

/// The value of an [`Artifact`], or values for the records.
pub enum Product<'a> {
    /// No value besides the entry.
    Nothing,
    /// The tokenizer, loaded or built.
    Tokenizer(Arc<dyn Tokenizer>),
    /// The folder and the key of the counts.
    Counts(Entry),
    /// The metrics with their errors.
    Metrics(Vec<Estimate>),
    /// The encoder, read when it is first used.
    Encoder(Box<Encoder<'a>>),
}

/// A product, or the reason why it cannot be computed.
pub type Produced<'a> = Result<Product<'a>, StageError>;

/// A stage that has a result.
pub struct Done<'a> {
    /// Its entry in the store; `None` for a stage that stores nothing.
    pub entry: Option<Entry>,
    /// Its product for later stages.
    pub product: Product<'a>,
}

impl Done<'_> {
    /// Returns a number of the result.
    pub fn number(&self, field: &str) -> Option<f64> {
        self.entry.as_ref()?.result.get(field)?.as_f64()
    }
}

/// Inputs of a stage.
pub struct Inputs<'a> {
    /// The run.
    pub cx: &'a Context<'a>,
    /// The images.
    pub images: &'a Images,
    /// The products that the stage needs, in the order of [`Stage::needs`].
    pub given: Vec<Rc<Done<'a>>>,
}

impl<'a> Inputs<'a> {
    /// Returns the first tokenizer.
    ///
    /// # Errors
    /// If the stage did not declare that it needs one.
    pub fn tokenizer(&self) -> Result<&Arc<dyn Tokenizer>, StageError> {
        self.first("tokenizer", |product| match product {
            Product::Tokenizer(tokenizer) => Some(tokenizer),
            _ => None,
        })
    }

    /// Returns the first counts.
    ///
    /// # Errors
    /// As for [`Inputs::tokenizer`].
    pub fn counts(&self) -> Result<&Entry, StageError> {
        self.first("counts", |product| match product {
            Product::Counts(entry) => Some(entry),
            _ => None,
        })
    }

    /// Returns the first encoder.
    ///
    /// # Errors
    /// As for [`Inputs::tokenizer`].
    pub fn encoder(&self) -> Result<&Encoder<'a>, StageError> {
        self.first("encoder", |product| match product {
            Product::Encoder(encoder) => Some(encoder.as_ref()),
            _ => None,
        })
    }

    fn first<'s, T>(
        &'s self,
        what: &str,
        pick: impl Fn(&'s Product<'a>) -> Option<&'s T>,
    ) -> Result<&'s T, StageError> {
        let found = self.given.iter().find_map(|done| pick(&done.product));
        found.ok_or_else(|| {
            StageError::Failed(format!("the stage does not declare the {what} it uses"))
        })
    }

    /// Returns all encoders.
    pub fn encoders(&self) -> impl Iterator<Item = &Encoder<'a>> {
        self.given.iter().filter_map(|done| match &done.product {
            Product::Encoder(encoder) => Some(encoder.as_ref()),
            _ => None,
        })
    }
}

/// A stage of a row and a seed with a recipe.
#[derive(Clone, Copy)]
pub struct Cell<'a, R> {
    /// The row.
    pub row: &'a Row,
    /// The seed.
    pub seed: u64,
    /// The recipe.
    pub recipe: R,
}

impl<R> Cell<'_, R> {
    /// Returns the encoder of the cell.
    pub fn encoder(&self) -> Artifact<'_> {
        Artifact::Encoder(&self.row.name, self.seed)
    }

    /// Returns the row's tokenizer, if it has one.
    pub fn tokenizer(&self) -> Option<Artifact<'_>> {
        let tokenizer = self.row.tokenizer.as_ref();
        tokenizer.map(|_| Artifact::Tokenizer(&self.row.name, 0))
    }
}

/// One stage of a row, or of a row and a seed.
pub trait Stage {
    /// Returns the name in the store, in `costs.csv` and in ids.
    fn name(&self) -> &'static str;

    /// Returns whether the result is stored. Otherwise [`Stage::build`] computes it in every run.
    fn is_stored(&self) -> bool {
        true
    }

    /// Returns whether a failure only causes a note, because no number depends on the stage.
    fn is_optional(&self) -> bool {
        false
    }

    /// Returns the artifacts that the stage needs from other stages.
    fn needs(&self) -> Vec<Artifact<'_>> {
        Vec::new()
    }

    /// Returns the artifact that others may need.
    fn gives(&self) -> Option<Artifact<'_>> {
        None
    }

    /// Returns everything that determines the result: configuration, seed, input fingerprints, version, numerics.
    ///
    /// # Errors
    /// [`StageError::Failed`] if an input cannot be read.
    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError>;

    /// Estimates the cost on this machine if the result is not stored.
    ///
    /// # Errors
    /// If the disk has too little space for its files.
    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost>;

    /// Computes the result and writes its files into `work`.
    ///
    /// # Errors
    /// Any error ends the stage. An interruption must be recognisable as one.
    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value>;

    /// Reads the product from the stored entry, so that a fresh and a resumed run use the same bytes.
    ///
    /// # Errors
    /// If the entry cannot be read.
    fn product<'a>(&self, on: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let _ = (on, entry);
        Ok(Product::Nothing)
    }

    /// Computes the product of a stage that is not stored.
    ///
    /// # Errors
    /// If it cannot be computed.
    fn build<'a>(&self, on: &Inputs<'a>) -> Produced<'a> {
        let _ = on;
        Ok(Product::Nothing)
    }

    /// Returns the files of the entry that the run folder shows in its cells, besides the predictions of an evaluation.
    fn outputs(&self) -> &'static [&'static str] {
        &[]
    }

    /// Writes the recipe into a cell's record, before anything is computed.
    fn describe(&self, record: &mut Record) {
        let _ = record;
    }

    /// Writes the result into a cell's record. The tables of evaluations and columns cover accuracies and seconds.
    ///
    /// # Errors
    /// If a column does not exist.
    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        let _ = (done, record);
        Ok(())
    }
}

/// Returns the provenance of a stage, the key of its result. `label` is for users: "K-means Pixel, K=50, seed 0".
///
/// # Errors
/// As for [`Stage::provenance`].
pub fn provenance(
    stage: &dyn Stage,
    label: String,
    on: &Inputs<'_>,
) -> Result<Provenance, StageError> {
    Ok(Provenance {
        stage: stage.name(),
        label,
        inputs: stage.provenance(on)?,
    })
}

/// Returns an error about a stored result that this version cannot read: a bug, because versions are part of the key.
pub fn unreadable(error: serde_json::Error) -> StageError {
    StageError::Failed(format!("the stored result cannot be read: {error}"))
}
