//! `probe`: trains a linear classifier on frozen features.

use serde_json::{Value, json};
use tessera_models::cost::Task;
use tessera_models::encode::Pool;
use tessera_models::probe::{self, ProbeConfig, ProbeData, Probed};
use tessera_models::vit::Layer;
use tessera_models::{self as models};
use tessera_reports::Record;
use tessera_reports::columns::has_converged;
use tessera_tokenizers::Split;

use super::common::context::StageError;
use super::common::encoder::Encoder;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Done, Inputs, Stage};
use super::common::training::{evaluated, pool, scaled, training};
use super::common::views::Views;
use crate::store::Workspace;
use crate::suite::{self, Augment, ProbeOptimizer};

const VERSION: u32 = 5;
const PARAMETERS: &str = "probe.safetensors";

/// The linear probe of a row and a seed.
pub type LinearProbe<'a> = Cell<'a, &'a suite::LinearProbe>;

impl Stage for LinearProbe<'_> {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        vec![self.encoder()]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let recipe = json!(self.recipe);
        Ok(on.encoder()?.provenance(VERSION, recipe, Some(self.seed)))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let recipe = self.recipe;
        let [train, val] = rates.counts();
        let width = recipe.layer.width(rates.vit.preset.width) as f64;
        let classes = rates.images.scan.classes.len() as f64;
        let tried = recipe.base_lr.all().len();
        // Rates are compared side by side on the same vectors, and one more pass measures convergence.
        let (trainings, choices) = if tried > 1 { (2, tried) } else { (1, 0) };
        let epochs = (trainings * recipe.epochs + 1) as f64;
        let layers = ((1 + choices) * recipe.epochs + 1) as f64;
        let mut seconds = layers * train * 6.0 * width * classes / rates.flops;
        if recipe.augment != Augment::None {
            seconds += rates.decoding(epochs * train)
                + epochs * train * rates.render
                + rates.seconds_of(Task::Encode, epochs * train);
        } else if self.row.recipes.knn.as_ref().map(|knn| knn.layer) != Some(recipe.layer) {
            // k-NN computes the same features.
            seconds += rates.decoding(train)
                + train * rates.render
                + rates.seconds_of(Task::Encode, train);
        }
        // Weight and bias of the classifier, and the statistics of the features.
        let parameters = 600.0 + 4.0 * (width * classes + classes + 2.0 * width);
        let shown = parameters + rates.predictions(5.min(classes as usize));
        Ok(Cost {
            seconds,
            memory: rates.encoding_memory() + rates.frozen_memory(train + val, recipe.layer),
            disk: rates.disk(shown, shown, 1) + rates.epochs(recipe.epochs),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (cx, encoder, recipe) = (on.cx, on.encoder()?, self.recipe);
        let pool = pool(recipe.pooling);
        let labels = on.images.dataset.labels(Split::Train);
        let val = encoder.frozen(Split::Val, recipe.layer)?;
        let val = encoder.labelled(&val, Split::Val, pool);
        let augmented;
        let (frozen, once);
        let train: &dyn ProbeData = if recipe.augment == Augment::None {
            frozen = encoder.frozen(Split::Train, recipe.layer)?;
            once = (frozen.as_ref(), pool);
            &once
        } else {
            let scale = recipe.crop_scale.into();
            let views = Views::train(cx, on.images, recipe.augment, scale, self.seed);
            augmented = Augmented {
                encoder,
                views,
                pool,
                layer: recipe.layer,
            };
            &augmented
        };
        let config = config(recipe, self.seed, labels.len());
        let width = recipe.layer.width(encoder.vit.preset.width);
        let classes = on.images.scan.classes.len();
        let probed = training(cx, work, |run| {
            probe::probe(&config, width, classes, train, labels, val, run)
        })?;
        let metadata = encoder.vit.metadata(recipe.pooling.name(), false);
        probed.params.save(&work.out.join(PARAMETERS), metadata)?;
        let mut result = evaluated(self.name(), work, &probed.evaluation, &probed.history)?;
        self.add_training(&mut result, &probed);
        if let Some(note) = self.unconverged(&probed) {
            cx.reporter.note(&note);
        }
        Ok(result)
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[PARAMETERS]
    }

    fn describe(&self, record: &mut Record) {
        record.pooling_lp = self.recipe.pooling.name().to_owned();
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        record.lp_base_lr = done.number("base_lr");
        record.lp_loss_fall = done.number("loss_fall");
        let converged = match has_converged(record.lp_loss_fall.unwrap_or(f64::NAN)) {
            true => "yes",
            false => "no",
        };
        record.lp_converged = converged.into();
        let found = done.entry.as_ref().map(|entry| &entry.result["held_out"]);
        let list = |key: &str| found.and_then(|found| found[key].as_array());
        if let (Some(rates), Some(top1)) = (list("base_lr"), list("top1")) {
            let pairs = rates.iter().zip(top1);
            let pairs = pairs
                .map(|(rate, top1)| format!("{rate}: {:.1}", top1.as_f64().unwrap_or(f64::NAN)));
            record.lp_held_out = Vec::from_iter(pairs).join("; ");
        }
        Ok(())
    }
}

impl LinearProbe<'_> {
    /// Writes the rate, how it was chosen, and the remaining fall of the loss in percent.
    fn add_training(&self, result: &mut Value, probed: &Probed) {
        let rates = self.recipe.base_lr.all();
        let best = probed.choice.as_ref().map_or(0, |choice| choice.best);
        result["base_lr"] = json!(rates.get(best));
        result["loss_fall"] = json!(100.0 * probed.remaining_fall);
        if let Some(choice) = &probed.choice {
            let (images, top1, loss) = (choice.images, &choice.top1, &choice.loss);
            let found = json!({"images": images, "base_lr": rates, "top1": top1, "loss": loss});
            result["held_out"] = found;
        }
    }

    /// Returns the note on a probe that has not converged.
    fn unconverged(&self, probed: &Probed) -> Option<String> {
        let (row, seed) = (&self.row.name, self.seed);
        let fall = 100.0 * probed.remaining_fall;
        if !fall.is_finite() {
            return Some(format!(
                "{row}, seed {seed}: the linear probe has diverged: its training loss is not finite, or its gradient too large; its accuracy \
                does not describe the features; lower `base_lr` of linear_probe"
            ));
        }
        let decay = match self.recipe.weight_decay > 0.0 {
            true => "; `weight_decay` above 0 keeps it from the optimum of that loss, too",
            false => "",
        };
        (!has_converged(fall)).then(|| {
            format!(
                "{row}, seed {seed}: the linear probe has not converged: one more step over all train images would lower its training loss by \
                at least {fall:.1} %; raise `epochs`, `base_lr` or `batch` of linear_probe, or give `base_lr` a list of rates to choose from{decay}"
            )
        })
    }
}

fn config(recipe: &suite::LinearProbe, seed: u64, images: usize) -> ProbeConfig {
    let batch = recipe.batch.min(images).max(1);
    let rates = recipe.base_lr.all().iter();
    ProbeConfig {
        epochs: recipe.epochs,
        batch,
        rates: rates.map(|rate| scaled(*rate, batch)).collect(),
        warmup_epochs: recipe.warmup_epochs,
        weight_decay: recipe.weight_decay,
        lars: recipe.optimizer == ProbeOptimizer::Lars,
        seed,
    }
}

/// Features of crops that differ from epoch to epoch.
struct Augmented<'a> {
    encoder: &'a Encoder<'a>,
    views: Views<'a>,
    pool: Pool,
    layer: Layer,
}

impl ProbeData for Augmented<'_> {
    fn features(&self, epoch: usize, indices: &[usize]) -> models::Result<Vec<f32>> {
        let frozen = self
            .encoder
            .encode(&self.views, epoch, indices, self.layer)?;
        Ok(match self.pool {
            Pool::Cls => frozen.cls,
            Pool::Mean => frozen.mean,
        })
    }
}

#[cfg(test)]
mod tests;
