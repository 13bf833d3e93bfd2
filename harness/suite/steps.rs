//! What recipes need of the number of train images.

use super::Recipes;

impl Recipes {
    /// Returns the field and an error of a training whose only step is the first of its warm-up: its rate is 0.
    pub(super) fn without_rate(&self, train: usize) -> Option<(&'static str, String)> {
        macro_rules! parts {
            ($($part:ident)*) => {
                [$((self.$part.as_ref()).map(|r| (stringify!($part), r.epochs, r.batch, r.warmup_epochs))),*]
            };
        }
        let parts = parts!(pretrain linear_probe attentive_probe fine_tune);
        let mut all = parts.into_iter().flatten();
        let (field, _, batch, warmup) = all.find(|(_, epochs, batch, warmup)| {
            *epochs == 1 && (train / batch).max(1) == 1 && *warmup > 0.0
        })?;
        let message = format!(
            "found batch {batch}, 1 epoch and {warmup} epochs of warm-up for {train} train images, which make a single step with rate 0; \
             expected a smaller batch, more epochs, or warmup_epochs: 0"
        );
        Some((field, message))
    }
}
