//! `probe`: trains a linear classifier on frozen features.

use serde_json::{Value, json};
use tessera_models::cost::Task;
use tessera_models::encode::Pool;
use tessera_models::probe::{self, ProbeConfig, ProbeData};
use tessera_models::{self as models};
use tessera_reports::Record;
use tessera_tokenizers::Split;

use super::common::context::StageError;
use super::common::encoder::Encoder;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Inputs, Stage};
use super::common::training::{evaluated, pool, scaled, training};
use super::common::views::Views;
use crate::store::Workspace;
use crate::suite::{self, Augment, ProbeOptimizer};

const VERSION: u32 = 3;
const PARAMETERS: &str = "probe.safetensors";

/// The linear probe of a row and a seed.
pub type LinearProbe<'a> = Cell<'a, &'a suite::LinearProbe>;

impl LinearProbe<'_> {
    fn config(&self, images: usize) -> ProbeConfig {
        let recipe = self.recipe;
        let batch = recipe.batch.min(images).max(1);
        ProbeConfig {
            epochs: recipe.epochs,
            batch,
            lr: scaled(recipe.base_lr, batch),
            warmup_epochs: recipe.warmup_epochs,
            weight_decay: recipe.weight_decay,
            lars: recipe.optimizer == ProbeOptimizer::Lars,
            seed: self.seed,
        }
    }
}

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
        let (epochs, width) = (recipe.epochs as f64, rates.vit.preset.width as f64);
        let classes = rates.images.scan.classes.len() as f64;
        let mut seconds = epochs * train * 6.0 * width * classes / rates.flops;
        if recipe.augment != Augment::None {
            seconds += rates.decoding(epochs * train)
                + epochs * train * rates.render
                + rates.seconds_of(Task::Encode, epochs * train);
        } else if self.row.recipes.knn.is_none() {
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
            memory: rates.encoding_memory() + rates.frozen_memory(train + val),
            disk: rates.disk(shown, shown, 1) + rates.epochs(recipe.epochs),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (cx, encoder, recipe) = (on.cx, on.encoder()?, self.recipe);
        let pool = pool(recipe.pooling);
        let labels = on.images.dataset.labels(Split::Train);
        let val = encoder.labelled(Split::Val, pool)?;
        let augmented;
        let once;
        let train: &dyn ProbeData = if recipe.augment == Augment::None {
            once = (encoder.frozen(Split::Train)?, pool);
            &once
        } else {
            let scale = recipe.crop_scale.into();
            let views = Views::train(cx, on.images, recipe.augment, scale, self.seed);
            augmented = Augmented {
                encoder,
                views,
                pool,
            };
            &augmented
        };
        let config = self.config(labels.len());
        let (width, classes) = (encoder.vit.preset.width, on.images.scan.classes.len());
        let probed = training(cx, work, |run| {
            probe::probe(&config, width, classes, train, labels, val, run)
        })?;
        let metadata = encoder.vit.metadata(recipe.pooling.name());
        probed.params.save(&work.out.join(PARAMETERS), metadata)?;
        evaluated(self.name(), work, &probed.evaluation, &probed.history)
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[PARAMETERS]
    }

    fn describe(&self, record: &mut Record) {
        record.pooling_lp = self.recipe.pooling.name().to_owned();
    }
}

/// Features of crops that differ from epoch to epoch.
struct Augmented<'a> {
    encoder: &'a Encoder<'a>,
    views: Views<'a>,
    pool: Pool,
}

impl ProbeData for Augmented<'_> {
    fn features(&self, epoch: usize, indices: &[usize]) -> models::Result<Vec<f32>> {
        let frozen = self.encoder.encode(&self.views, epoch, indices)?;
        Ok(match self.pool {
            Pool::Cls => frozen.cls,
            Pool::Mean => frozen.mean,
        })
    }
}
