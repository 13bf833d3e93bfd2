//! Tokenizes a whole split: threads decode and tokenize batches, which are consumed in scan order.

use tessera_models::Targets;
use tessera_models::ordered::in_order;
use tessera_tokenizers::{Split, Tokenizer};

use super::dataset::Dataset;
use super::view::{EvalTransform, ViewPlan};

/// Images per call of a tokenizer: constant, so that a batched engine returns the same ids on any number of threads.
pub const BATCH: usize = 32;
/// Maximum batches per thread that wait for an earlier one.
const AHEAD: usize = 4;

/// Images, views and callbacks of a pass over a split.
pub struct Walk<'a> {
    /// The images.
    pub dataset: &'a Dataset,
    /// The split.
    pub split: Split,
    /// The part of an image that is evaluated.
    pub eval: EvalTransform,
    /// The views.
    pub plan: ViewPlan,
    /// Polled before every batch; true stops the pass.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// Receives (done, total) after every batch.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Walk<'_> {
    /// Computes the targets of the whole split and calls `take` in scan order with the first image's index and the targets of each
    /// batch. A few batches are in memory at a time. At the end, the tokenizer must not have changed.
    ///
    /// # Errors
    /// Errors of the tokenizer, the images and `take`, and interruption.
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
        })?;
        Ok(tokenizer.check_unchanged()?)
    }
}
