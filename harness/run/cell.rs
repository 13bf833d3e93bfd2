//! The stages of one row, and of one row and seed, in their order; each result is handed on as it comes.

use super::context::{Context, Images, Mode, StageError};
use super::stages::evaluate::{self, Encoder};
use super::stages::fit::{self, Fitted};
use super::stages::pretrain::{self, Made};
use super::stages::{count, gallery};
use crate::metrics::Estimate;
use crate::store::Entry;
use crate::suite::Row;

/// What a row gives before training.
pub enum Scored<'a> {
    /// Its tokenizer.
    Fitted(&'a Fitted),
    /// The counts of its ids.
    Counted(&'a Entry),
    /// What they say.
    Metrics(&'a [Estimate]),
    /// What its tokens look like.
    Gallery(&'a Entry),
}

/// Fits, counts and measures; the tokenizer, or `None` when the store hasn't it yet.
///
/// # Errors
/// [`StageError`].
pub fn score(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    row: &Row,
    on: &mut dyn FnMut(Scored<'_>) -> anyhow::Result<()>,
) -> Result<Option<Fitted>, StageError> {
    let Some(fitted) = fit::fit(cx, mode, images, row)? else {
        return Ok(None);
    };
    tell(on(Scored::Fitted(&fitted)))?;
    if fitted.tokenizer.target().codebook_size().is_none() {
        return Ok(Some(fitted));
    }
    if let Some(counted) = count::count(cx, mode, images, &row.name, &fitted)? {
        tell(on(Scored::Counted(&counted)))?;
        if let Some(estimates) = count::metrics(cx, mode, &row.name, &counted)? {
            tell(on(Scored::Metrics(&estimates)))?;
        }
        let with = (&fitted, &counted);
        let damaged = cx.store.damaged();
        match gallery::gallery(cx, mode, images, &row.name, with) {
            Ok(Some(gallery)) => tell(on(Scored::Gallery(&gallery)))?,
            Ok(None) => (),
            // Pictures are for the page: no number depends on them.
            Err(StageError::Failed(error)) if cx.store.damaged() == damaged => {
                let name = &row.name;
                cx.reporter.note(&format!("no gallery of {name}: {error}"));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(Some(fitted))
}

/// A row and a seed.
pub struct Cell<'a> {
    /// The run.
    pub cx: &'a Context<'a>,
    /// The images.
    pub images: &'a Images,
    /// The row.
    pub row: &'a Row,
    /// The seed.
    pub seed: u64,
}

/// What a trained cell gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// The model that was pretrained elsewhere.
    Import,
    /// The pretrained model.
    Pretrain,
    /// k-NN accuracy.
    Knn,
    /// The linear probe.
    Probe,
    /// The fine-tuned model.
    Finetune,
}

impl Trained {
    /// The stage's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Pretrain => "pretrain",
            Self::Knn => "knn",
            Self::Probe => "probe",
            Self::Finetune => "finetune",
        }
    }
}

/// Told about each finished stage.
type OnTrained<'a> = &'a mut dyn FnMut((Trained, &Entry)) -> anyhow::Result<()>;

impl Cell<'_> {
    /// Pretrains and evaluates; whether every stage of the recipe has a result.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn train(
        &self,
        mode: Mode,
        fitted: Option<&Fitted>,
        on: OnTrained<'_>,
    ) -> Result<bool, StageError> {
        let label = format!("{}, seed {}", self.row.name, self.seed);
        let (cx, images) = (self.cx, self.images);
        let made = match pretrain::model_of(cx, mode, images, self.row, fitted, self.seed)? {
            Made::Missing => return Ok(false),
            Made::Random => None,
            Made::Imported(entry) => Some((Trained::Import, entry)),
            Made::Pretrained(entry) => Some((Trained::Pretrain, entry)),
        };
        if let Some((which, entry)) = &made {
            tell(on((*which, entry)))?;
        }
        let encoder = Encoder::new(self.cx, self.images, made.as_ref(), self.seed)?;
        let recipes = &self.row.recipes;
        let mut whole = true;
        let mut take = |which: Trained, entry: Option<Entry>| match entry {
            Some(entry) => tell(on((which, &entry))),
            None => {
                whole = false;
                Ok(())
            }
        };
        if let Some(recipe) = &recipes.knn {
            take(Trained::Knn, evaluate::knn(&encoder, mode, &label, recipe)?)?;
        }
        if let Some(recipe) = &recipes.linear_probe {
            take(
                Trained::Probe,
                evaluate::probe(&encoder, mode, &label, recipe)?,
            )?;
        }
        if let Some(recipe) = &recipes.fine_tune {
            take(
                Trained::Finetune,
                evaluate::finetune(&encoder, mode, &label, recipe)?,
            )?;
        }
        Ok(whole)
    }
}

/// A run folder that cannot be written fails the cell that wrote.
fn tell(written: anyhow::Result<()>) -> Result<(), StageError> {
    written.map_err(|error| StageError::Failed(format!("{error:#}")))
}
