//! What recipes need of the number of train images.

use super::{AttentiveProbe, LinearProbe, Rates, Recipes};

/// The steps of a training of a recipe.
struct Steps {
    field: &'static str,
    epochs: usize,
    batch: usize,
    warmup: f64,
    /// Whether about a tenth of the images is held out to choose a rate.
    holds_out: bool,
}

impl Steps {
    /// The error of a training whose only step is the first of its warm-up.
    fn without_rate(self, train: usize) -> Option<(&'static str, String)> {
        let images = match self.holds_out {
            true => train - train.div_ceil(10),
            false => train,
        };
        let Self {
            field,
            epochs,
            batch,
            warmup,
            ..
        } = self;
        let is_lone = epochs == 1 && (images / batch).max(1) == 1 && warmup > 0.0;
        let message = format!(
            "found batch {batch}, 1 epoch and {warmup} epochs of warm-up for {images} train images, which make a single step with rate 0; \
             expected a smaller batch, more epochs, or warmup_epochs: 0"
        );
        is_lone.then_some((field, message))
    }
}

impl Recipes {
    /// Returns the field and an error of a training whose only step has the rate 0. `pretrains` says whether the row pretrains its model.
    pub(super) fn without_rate(
        &self,
        train: usize,
        pretrains: bool,
    ) -> Option<(&'static str, String)> {
        let mut trainings = self.trainings(pretrains);
        trainings.find_map(|steps| steps.without_rate(train))
    }

    /// Returns the field and the batch of every training.
    pub(super) fn batches(&self, pretrains: bool) -> impl Iterator<Item = (&'static str, usize)> {
        let trainings = self.trainings(pretrains);
        trainings.map(|steps| (steps.field, steps.batch))
    }

    fn trainings(&self, pretrains: bool) -> impl Iterator<Item = Steps> {
        macro_rules! steps {
            ($field:literal, $recipe:expr, $holds_out:expr) => {
                $recipe.map(|recipe| Steps {
                    field: $field,
                    epochs: recipe.epochs,
                    batch: recipe.batch,
                    warmup: recipe.warmup_epochs,
                    holds_out: $holds_out(recipe),
                })
            };
        }
        let pretrain = self.pretrain.as_ref().filter(|_| pretrains);
        let (linear, attentive) = (self.linear_probe.as_ref(), self.attentive_probe.as_ref());
        let several = |rates: &Rates| rates.all().len() > 1;
        let all = [
            steps!("pretrain", pretrain, |_| false),
            steps!("linear_probe", linear, |r: &LinearProbe| several(
                &r.base_lr
            )),
            steps!("attentive_probe", attentive, |r: &AttentiveProbe| several(
                &r.base_lr
            )),
            steps!("fine_tune", self.fine_tune.as_ref(), |_| false),
        ];
        all.into_iter().flatten()
    }
}
