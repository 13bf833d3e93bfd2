//! `finetune`: trains the whole encoder with a classifier.

use serde_json::{Value, json};
use tessera_models::ImageSource;
use tessera_models::cost::Task;
use tessera_models::fine_tune::{FinetuneConfig, finetune};
use tessera_reports::Record;
use tessera_tokenizers::Split;

use super::common::context::StageError;
use super::common::limits::Work;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Inputs, Stage};
use super::common::training::{evaluated, pool, scaled, training};
use super::common::views::Views;
use crate::store::Workspace;
use crate::suite;

const VERSION: u32 = 4;
const PARAMETERS: &str = "finetuned.safetensors";

/// The fine-tuned model of a row and a seed.
pub type FineTune<'a> = Cell<'a, &'a suite::FineTune>;

impl Stage for FineTune<'_> {
    fn name(&self) -> &'static str {
        "finetune"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        vec![self.encoder()]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        // Checkpointing changes no number.
        let recipe = suite::FineTune {
            gradient_checkpointing: false,
            ..self.recipe.clone()
        };
        let (encoder, seed) = (on.encoder()?, Some(self.seed));
        Ok(encoder.provenance(VERSION, json!(recipe), seed))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let recipe = self.recipe;
        let classes = rates.images.scan.classes.len();
        let task = Task::FineTune { classes };
        let [train, val] = rates.counts();
        let epochs = recipe.epochs as f64;
        let images = train * epochs;
        let checkpointing = recipe.gradient_checkpointing;
        let shown = rates.parameters(task) + rates.predictions(5.min(classes));
        let work = Work {
            images: images + val,
            decoding: rates.decoding(images + val),
            crops: (images + val) * rates.render,
            targets: 0.0,
            model: rates.training_seconds(task, images, checkpointing)
                + rates.seconds_of(Task::Encode, val),
            ids_again: false,
            idle: rates.idle(recipe.batch),
        };
        Ok(Cost {
            seconds: rates.limits.add(self.name(), &self.row.name, work),
            memory: rates.training_memory(task, (recipe.batch, classes), checkpointing),
            disk: rates.disk(shown, shown, 1) + rates.epochs(recipe.epochs),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (cx, images, recipe, seed) = (on.cx, on.images, self.recipe, self.seed);
        let encoder = on.encoder()?;
        let policy = recipe.rand_augment().map_err(anyhow::Error::msg)?;
        let views = Views::train(cx, images, recipe.augment, recipe.crop_scale.into(), seed)
            .with_edits(policy, recipe.random_erasing);
        let val_views = Views::eval(cx, images, Split::Val);
        let labels = images.dataset.labels(Split::Train);
        let config = config(recipe, seed, labels.len());
        let train: (&dyn ImageSource, &[u32]) = (&views, labels);
        let val: (&dyn ImageSource, &[u32]) = (&val_views, images.dataset.labels(Split::Val));
        let (vit, classes) = (&encoder.vit, images.scan.classes.len());
        let tuned = training(cx, work, |run| {
            finetune(vit, encoder.params()?, &config, classes, train, val, run)
        })?;
        let metadata = vit.metadata(recipe.pooling.name(), false);
        tuned.params.save(&work.out.join(PARAMETERS), metadata)?;
        evaluated(self.name(), work, &tuned.evaluation, &tuned.history)
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[PARAMETERS]
    }

    fn describe(&self, record: &mut Record) {
        record.pooling_ft = self.recipe.pooling.name().to_owned();
    }
}

fn config(recipe: &suite::FineTune, seed: u64, images: usize) -> FinetuneConfig {
    let batch = recipe.batch.min(images).max(1);
    FinetuneConfig {
        epochs: recipe.epochs,
        batch,
        lr: scaled(recipe.base_lr, batch),
        min_lr: recipe.min_lr,
        warmup_epochs: recipe.warmup_epochs,
        weight_decay: recipe.weight_decay,
        layer_decay: recipe.layer_decay,
        pool: pool(recipe.pooling),
        label_smoothing: recipe.label_smoothing,
        drop_path: recipe.drop_path,
        mixup: recipe.mixup,
        cutmix: recipe.cutmix,
        gradient_checkpointing: recipe.gradient_checkpointing,
        seed,
    }
}
