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
        let lone = |field, epochs: usize, batch: usize, warmup: f64, images: usize| {
            let is_lone = epochs == 1 && (images / batch).max(1) == 1 && warmup > 0.0;
            let message = format!(
                "found batch {batch}, 1 epoch and {warmup} epochs of warm-up for {images} train images, which make a single step with rate 0; \
                 expected a smaller batch, more epochs, or warmup_epochs: 0"
            );
            is_lone.then_some((field, message))
        };
        // About a tenth is held out to choose a rate.
        let kept = |rates: &[f64]| match rates.len() {
            1 => train,
            _ => train - train.div_ceil(10),
        };
        let of_pretrain = self.pretrain.as_ref().filter(|_| pretrains);
        let of_pretrain =
            of_pretrain.map(|r| lone("pretrain", r.epochs, r.batch, r.warmup_epochs, train));
        let linear = self.linear_probe.as_ref();
        let linear = linear.map(|r| {
            lone(
                "linear_probe",
                r.epochs,
                r.batch,
                r.warmup_epochs,
                kept(r.base_lr.all()),
            )
        });
        let attentive = self.attentive_probe.as_ref();
        let attentive = attentive.map(|r| {
            lone(
                "attentive_probe",
                r.epochs,
                r.batch,
                r.warmup_epochs,
                kept(r.base_lr.all()),
            )
        });
        let tuned = self.fine_tune.as_ref();
        let tuned = tuned.map(|r| lone("fine_tune", r.epochs, r.batch, r.warmup_epochs, train));
        let all = [of_pretrain, linear, attentive, tuned];
        all.into_iter().flatten().find_map(|found| found)
    }
}
