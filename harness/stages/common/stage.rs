//! The contract of a stage: a value that says what it needs, what determines its result, what it costs, how it is computed and
//! what of it is shown.
//!
//! A stage is a pure function of its provenance, which is the key of its result in the store. Names of stages are part of that
//! key, of `costs.csv` and of the ids of nodes; each is written once, in the stage's own file.

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

/// What one stage gives and others need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact<'a> {
    /// The tokenizer of a row.
    Tokenizer(&'a str),
    /// The counts of a row's ids.
    Counts(&'a str),
    /// The encoder of a row and a seed.
    Encoder(&'a str, u64),
}

/// An [`Artifact`], and what the records take.
pub enum Product<'a> {
    /// Nothing beside the entry.
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

/// What a stage gives, or why it cannot.
pub type Produced<'a> = Result<Product<'a>, StageError>;

/// A stage that has a result.
pub struct Done<'a> {
    /// Its entry in the store; `None` of a stage that stores nothing.
    pub entry: Option<Entry>,
    /// What the stages after it take.
    pub product: Product<'a>,
}

impl Done<'_> {
    /// A number of the result.
    pub fn number(&self, field: &str) -> Option<f64> {
        self.entry.as_ref()?.result.get(field)?.as_f64()
    }
}

/// What a stage works on.
pub struct Inputs<'a> {
    /// The run.
    pub cx: &'a Context<'a>,
    /// The images.
    pub images: &'a Images,
    /// The artifacts that the stage needs, in the order of [`Stage::needs`].
    pub given: Vec<Rc<Done<'a>>>,
}

impl<'a> Inputs<'a> {
    /// The first tokenizer among them.
    ///
    /// # Errors
    /// When the stage did not say that it needs one.
    pub fn tokenizer(&self) -> Result<&Arc<dyn Tokenizer>, StageError> {
        self.first("tokenizer", |product| match product {
            Product::Tokenizer(tokenizer) => Some(tokenizer),
            _ => None,
        })
    }

    /// The first counts among them.
    ///
    /// # Errors
    /// As [`Inputs::tokenizer`].
    pub fn counts(&self) -> Result<&Entry, StageError> {
        self.first("counts", |product| match product {
            Product::Counts(entry) => Some(entry),
            _ => None,
        })
    }

    /// The first encoder among them.
    ///
    /// # Errors
    /// As [`Inputs::tokenizer`].
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

    /// All encoders among them.
    pub fn encoders(&self) -> impl Iterator<Item = &Encoder<'a>> {
        self.given.iter().filter_map(|done| match &done.product {
            Product::Encoder(encoder) => Some(encoder.as_ref()),
            _ => None,
        })
    }
}

/// A stage of a row and a seed, by its recipe.
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
    /// The encoder that the cell evaluates.
    pub fn encoder(&self) -> Artifact<'_> {
        Artifact::Encoder(&self.row.name, self.seed)
    }

    /// The row's tokenizer, where it has one: a tokenizer that cannot be fitted ends its row.
    pub fn tokenizer(&self) -> Option<Artifact<'_>> {
        let tokenizer = self.row.tokenizer.as_ref();
        tokenizer.map(|_| Artifact::Tokenizer(&self.row.name))
    }
}

/// One stage of a row, or of a row and a seed.
pub trait Stage {
    /// Its name in the store, in `costs.csv` and in ids.
    fn name(&self) -> &'static str;

    /// Whether its result is stored; otherwise [`Stage::build`] makes it anew in every run.
    fn is_stored(&self) -> bool {
        true
    }

    /// Whether its failure is only noted: no number depends on it.
    fn is_optional(&self) -> bool {
        false
    }

    /// What it needs of other stages.
    fn needs(&self) -> Vec<Artifact<'_>> {
        Vec::new()
    }

    /// What others may need of it.
    fn gives(&self) -> Option<Artifact<'_>> {
        None
    }

    /// Everything that determines the result: configuration, seed, input fingerprints, version, numerics.
    ///
    /// # Errors
    /// [`StageError::Failed`] when an input cannot be read.
    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError>;

    /// What it costs on this machine when it is not stored.
    ///
    /// # Errors
    /// When there is no room for what it writes.
    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost>;

    /// Computes the result and writes its files into `work`.
    ///
    /// # Errors
    /// Whatever ends the stage; interruptions say so.
    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value>;

    /// What the stages after it take, from the stored entry: a fresh and a resumed run use the same bytes.
    ///
    /// # Errors
    /// When the entry cannot be read.
    fn product<'a>(&self, on: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let _ = (on, entry);
        Ok(Product::Nothing)
    }

    /// The same of a stage that is not stored.
    ///
    /// # Errors
    /// When it cannot be built.
    fn build<'a>(&self, on: &Inputs<'a>) -> Produced<'a> {
        let _ = on;
        Ok(Product::Nothing)
    }

    /// Files of the entry that the run folder shows in the folders of its cells, beside the predictions of an evaluation.
    fn outputs(&self) -> &'static [&'static str] {
        &[]
    }

    /// Enters the recipe into a cell's record, before anything is computed.
    fn describe(&self, record: &mut Record) {
        let _ = record;
    }

    /// Enters the result into a cell's record. Accuracies and seconds go there by the tables of evaluations and columns.
    ///
    /// # Errors
    /// When there is no such column.
    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        let _ = (done, record);
        Ok(())
    }
}

/// The key of a stage's result and the record of what determines it; `label` is for people: "K-means Pixel, K=50, seed 0".
///
/// # Errors
/// As [`Stage::provenance`].
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

/// A stored result that this version cannot read: a bug, as versions are part of the key.
pub fn unreadable(error: serde_json::Error) -> StageError {
    StageError::Failed(format!("the stored result cannot be read: {error}"))
}
