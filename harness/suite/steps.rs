//! What recipes need of the number of train images.

use super::Recipes;

impl Recipes {
    /// Returns the field and an error of a training whose only step is the first of its warm-up: its rate is 0. `pretrains` says whether the
    /// row pretrains its model.
    pub(super) fn without_rate(
        &self,
        train: usize,
        pretrains: bool,
    ) -> Option<(&'static str, String)> {
        let pretrain = self.pretrain.as_ref().filter(|_| pretrains);
        let (linear, attentive) = (self.linear_probe.as_ref(), self.attentive_probe.as_ref());
        let tuned = self.fine_tune.as_ref();
        // At least a tenth is held out to choose a rate.
        let kept = |rates: usize| {
            if rates > 1 {
                train - train.div_ceil(10)
            } else {
                train
            }
        };
        let parts = [
            pretrain.map(|r| ("pretrain", r.epochs, r.batch, r.warmup_epochs, train)),
            linear.map(|r| {
                (
                    "linear_probe",
                    r.epochs,
                    r.batch,
                    r.warmup_epochs,
                    kept(r.base_lr.all().len()),
                )
            }),
            attentive.map(|r| {
                (
                    "attentive_probe",
                    r.epochs,
                    r.batch,
                    r.warmup_epochs,
                    kept(r.base_lr.all().len()),
                )
            }),
            tuned.map(|r| ("fine_tune", r.epochs, r.batch, r.warmup_epochs, train)),
        ];
        let mut all = parts.into_iter().flatten();
        let (field, _, batch, warmup, images) =
            all.find(|(_, epochs, batch, warmup, images)| {
                *epochs == 1 && (images / batch).max(1) == 1 && *warmup > 0.0
            })?;
        let message = format!(
            "found batch {batch}, 1 epoch and {warmup} epochs of warm-up for {images} train images, which make a single step with rate 0; \
             expected a smaller batch, more epochs, or warmup_epochs: 0"
        );
        Some((field, message))
    }
}
