//! A tokenizer over a whole split: threads decode and tokenize batches, one place takes them in scan order.

use tessera_models::Targets;
use tessera_models::ordered::in_order;
use tessera_tokenizers::{Split, Tokenizer};

use super::dataset::Dataset;
use super::view::{EvalTransform, ViewPlan};

/// Images per call of a tokenizer: a constant, so that a batched engine gives the same ids on any number of threads.
pub const BATCH: usize = 32;
/// Batches per thread that wait for an earlier one, at most.
const AHEAD: usize = 4;

/// Which images, looked at how, and whom to ask and tell.
pub struct Walk<'a> {
    /// The images.
    pub dataset: &'a Dataset,
    /// Which half of them.
    pub split: Split,
    /// What part of an image is seen.
    pub eval: EvalTransform,
    /// How they are looked at.
    pub plan: ViewPlan,
    /// Asked before every batch.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// Told (done, total) after every batch.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Walk<'_> {
    /// Targets of the whole split, batch by batch in scan order: `take` gets the first image's index and the batch's targets. A
    /// few batches are in memory at a time, and no thread waits for the others while there is work.
    ///
    /// # Errors
    /// When the tokenizer or the images fail, when `take` does, or the user asks to stop.
    pub fn each_batch(
        &self,
        tokenizer: &dyn Tokenizer,
        mut take: impl FnMut(usize, Targets) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<()> {
        let total = self.dataset.len(self.split);
        let (spec, patches) = (tokenizer.target(), tokenizer.grid().num_patches());
        let make = |batch: usize| -> anyhow::Result<Targets> {
            if (self.interrupted)() {
                return Err(tessera_models::Error::Interrupted.into());
            }
            let start = batch * BATCH;
            let indices: Vec<usize> = (start..(start + BATCH).min(total)).collect();
            let view = (self.dataset).view(self.split, &indices, self.plan, self.eval)?;
            let targets = tokenizer.tokenize(&view.as_view())?;
            Ok(targets.checked(spec, indices.len(), patches)?)
        };
        let ahead = AHEAD * rayon::current_num_threads();
        in_order(total.div_ceil(BATCH), ahead, make, |batch, targets| {
            take(batch * BATCH, targets)?;
            (self.progress)(((batch + 1) * BATCH).min(total), total);
            Ok(())
        })
    }
}
