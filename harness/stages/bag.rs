//! `bag`: measures what a row's tokens alone say about the class: multinomial logistic regression on the counts of codes in an image.
//!
//! The train split's counts are those of `count`. The validation split is tokenized here. Counts are scaled by one number for all codes,
//! so that the mean squared norm of the train rows is 1 and strengths mean the same for any codebook and grid.

use std::cell::Cell;

use anyhow::bail;
use serde_json::{Value, json};
use tessera_models::logistic::{self, Rows};
use tessera_reports::Record;
use tessera_tokenizers::Split;

use super::common::context::StageError;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Done, Inputs, Stage};
use super::common::targets::each_batch;
use super::common::training::predicted;
use super::count::joint;
use crate::data::ViewPlan;
use crate::data::targets::BATCH;
use crate::metrics::Counts;
use crate::store::Workspace;
use crate::suite::{BagOfTokens, Row};

const VERSION: u32 = 3;

/// The classifier on the counts of a row with ids, of its first fit.
pub struct Bag<'a> {
    /// The row.
    pub row: &'a Row,
    /// The recipe.
    pub recipe: &'a BagOfTokens,
}

impl Stage for Bag<'_> {
    fn name(&self) -> &'static str {
        "bag"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        let name = &self.row.name;
        vec![Artifact::Tokenizer(name, 0), Artifact::Counts(name, 0)]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        // The count's key covers the tokenizer and the images.
        let count = &on.counts()?.key;
        Ok(json!({"version": VERSION, "count": count, "recipe": self.recipe}))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        /// Steps of L-BFGS for each strength, and seconds of an operation on a sparse row.
        const STEPS: f64 = 60.0;
        const OPERATION: f64 = 5e-10;
        /// Vectors as long as the parameters: six differences of points and gradients, and three points. Codes that say nothing about the
        /// classes need one difference. A run is refused only for what it needs at least, and codes of which nothing is known count as
        /// equally frequent, as those that say nothing are.
        const VECTORS: f64 = 2.0 * 6.0 + 6.0;
        const LEAST: f64 = 2.0 + 6.0;
        /// Bytes of a code's column, whether it occurs or not.
        const COLUMN: f64 = 8.0;
        let [train, val] = rates.counts();
        let classes = rates.images.scan.classes.len() as f64;
        let pairs = train * rates.sampled(self.row).tokens;
        // Only codes of the train split have parameters.
        let codes = rates.codes(self.row).unwrap_or(0) as f64;
        let sampled = rates.sampled(self.row);
        let parameters = sampled.used(codes, train) * classes;
        let vectors = match rates.is_measured && sampled.guessed.is_none() {
            true => VECTORS,
            false => LEAST,
        };
        let steps = STEPS * (1 + self.recipe.l2.all().len()) as f64;
        let work = 4.0 * pairs * classes + vectors * parameters;
        let shown = rates.predictions(5.min(classes as usize));
        Ok(Cost {
            seconds: rates.decoding(val)
                + val * rates.tokenize(self.row)
                + steps * work * OPERATION,
            // Rows of all and of the kept images, by row and by column.
            memory: rates.base()
                + rates.tokenizer_memory(self.row)
                + rates.held.by_all(BATCH, val)
                + 32.0 * pairs
                + COLUMN * codes
                + 8.0 * vectors * parameters,
            disk: rates.disk(shown, shown, rates.cells(0)),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (cx, images) = (on.cx, on.images);
        let Some(counts) = joint(on.counts()?)? else {
            return Ok(json!({}));
        };
        let columns = Columns::of(&counts)?;
        let mut train = train_rows(&counts, &columns)?;
        let mut val = self.val_rows(on, &columns)?;
        let factor = 1.0 / train.mean_square().sqrt();
        train.scale(factor);
        val.scale(factor);
        let steps = Cell::new(0);
        let step = || {
            steps.set(steps.get() + 1);
            cx.reporter
                .progress(steps.get(), steps.get(), "steps of L-BFGS");
            cx.interrupted()
        };
        let strengths = self.recipe.l2.all();
        let (labels, classes) = (&counts.labels, counts.num_classes);
        let chosen = logistic::choose(&train, labels, classes, strengths, &step)?;
        if !chosen.model.has_converged() {
            let name = &self.row.name;
            cx.reporter.note(&format!(
                "{name}: the classifier on counts of codes is not at its optimum (largest derivative {:.1e}); leave small values of \
                 bag_of_tokens.l2 out",
                chosen.model.largest_derivative
            ));
        }
        let evaluation = chosen
            .model
            .evaluate(&val, images.dataset.labels(Split::Val));
        predicted(
            self.name(),
            work,
            &evaluation.predictions,
            evaluation.columns,
        )?;
        Ok(json!({
            "top1": evaluation.top1,
            "top5": evaluation.top5,
            "l2": chosen.l2,
            "held_out": chosen.tried,
            "largest_derivative": chosen.model.largest_derivative,
        }))
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        record.bag_l2 = done.number("l2");
        Ok(())
    }
}

/// The codes that occur in the train split, in order. Others have no parameters: nothing is learnt about them, and there may be millions.
struct Columns {
    /// Column of each code of the codebook; `None` for a code that does not occur.
    of: Vec<Option<u32>>,
    count: usize,
}

impl Columns {
    fn of(counts: &Counts) -> anyhow::Result<Self> {
        let mut of = vec![None; counts.codebook_size];
        counts.each_pair(|_, code, _| {
            of[code as usize] = Some(0);
            Ok(())
        })?;
        let used = of.iter_mut().flatten().zip(0..);
        let count = used.map(|(column, at)| *column = at).count();
        Ok(Self { of, count })
    }
}

impl Bag<'_> {
    /// Counts the codes of every validation image. Codes that do not occur in the train split are left out.
    fn val_rows(&self, on: &Inputs<'_>, columns: &Columns) -> anyhow::Result<Rows> {
        let (tokenizer, view) = (on.tokenizer()?.as_ref(), (Split::Val, ViewPlan::Eval));
        let mut rows = Rows::new(columns.count);
        let codes = columns.of.len();
        each_batch(on.cx, on.images, tokenizer, view, |_, targets| {
            for mut ids in targets.ids()?.to_vec2::<u32>()? {
                ids.sort_unstable();
                if let Some(id) = ids.last().filter(|id| **id as usize >= codes) {
                    bail!("id {id} is not in 0..{codes}, the tokenizer's own codebook size");
                }
                let same = ids.chunk_by(|a, b| a == b);
                let pair = |run: &[u32]| Some((columns.of[run[0] as usize]?, run.len() as f32));
                rows.push(same.filter_map(pair));
            }
            Ok(())
        })?;
        Ok(rows)
    }
}

/// Returns the counts of codes of every train image.
fn train_rows(counts: &Counts, columns: &Columns) -> anyhow::Result<Rows> {
    let mut rows = Rows::new(columns.count);
    let mut row = Vec::new();
    let mut current = 0;
    counts.each_pair(|image, code, patches| {
        while current < image {
            rows.push(row.drain(..));
            current += 1;
        }
        row.extend(columns.of[code as usize].map(|column| (column, patches as f32)));
        Ok(())
    })?;
    while rows.len() < counts.num_images() {
        rows.push(row.drain(..));
    }
    Ok(rows)
}
