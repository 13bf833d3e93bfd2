//! `pretrain`: trains a new model to predict a tokenizer's targets.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Value, json};
use tessera_models::cost::Task;
use tessera_models::pretrain::{PretrainConfig, PretrainData, pretrain};
use tessera_models::{self as models, ImageSource, TargetSpec, Targets, vit};
use tessera_reports::Record;
use tessera_tokenizers::{Rendered, Split, Tokenizer};

use super::common::context::StageError;
use super::common::encoder::{ENCODER, Encoder, Origin};
use super::common::limits::Work;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Done, Inputs, Produced, Product, Stage};
use super::common::steps::visible_patches;
use super::common::training::{scaled, training, with_skipped};
use super::common::views::{Views, tokenizer_error};
use super::tokens::{self, BothWays};
use crate::store::{Entry, Workspace};
use crate::suite;

const VERSION: u32 = 4;

/// File of the model with its decoder, in the store and in the run folder.
pub const CHECKPOINT: &str = "pretrained.safetensors";

/// The pretrained model of a row and a seed.
pub type Pretrain<'a> = Cell<'a, &'a suite::Pretrain>;

impl Stage for Pretrain<'_> {
    fn name(&self) -> &'static str {
        "pretrain"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        self.tokenizer().into_iter().collect()
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(self.encoder())
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let tokenizer = on.tokenizer()?;
        // Checkpointing changes no number.
        let recipe = suite::Pretrain {
            gradient_checkpointing: false,
            ..self.recipe.clone()
        };
        Ok(json!({
            "version": VERSION,
            "tokenizer": tokenizer.fingerprint(),
            "images": on.images.provenance(on.cx),
            "backbone": on.cx.suite.file.backbone,
            "recipe": recipe,
            "seed": self.seed,
            "numerics": on.cx.model_numerics(tokenizer.facts().engine.as_deref()),
        }))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let (row, recipe, vit) = (self.row, self.recipe, &rates.vit);
        // If the number of codes is known only after learning, the head is not estimated.
        let target = rates.plan(row).and_then(|plan| plan.target);
        let target = target.unwrap_or(TargetSpec::Ids { codebook_size: 0 });
        let task = Task::Pretrain {
            kept: visible_patches(vit, recipe.mask_ratio),
            head: target.head_width(),
        };
        let targets = vit.num_patches() * target.per_patch();
        let epochs = recipe.epochs as f64;
        let images = rates.counts()[0] * epochs;
        let (tokenized, ids) = self.tokenized(rates);
        let models = rates.parameters(task) + rates.parameters(Task::Encode);
        let checkpointing = recipe.gradient_checkpointing;
        let work = Work {
            images,
            decoding: rates.decoding(images),
            crops: images * rates.render,
            targets: tokenized * rates.tokenize(row),
            model: rates.training_seconds(task, images, checkpointing),
            ids_again: !self.stores_ids(rates),
            idle: rates.idle(recipe.batch),
        };
        Ok(Cost {
            seconds: rates.limits.add(self.name(), &row.name, work),
            memory: rates.training_memory(task, (recipe.batch, targets), checkpointing)
                + rates.tokenizer_memory(row),
            disk: rates.disk(models, models, 1) + rates.epochs(recipe.epochs) + ids,
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (cx, images, recipe, seed) = (on.cx, on.images, self.recipe, self.seed);
        let vit = cx.vit()?;
        let tokenizer = Arc::clone(on.tokenizer()?);
        let target = tokenizer.target();
        let stored = tokens::are_stored(recipe, tokenizer.as_ref());
        let stored = stored.then(|| BothWays::of(on, tokenizer.as_ref()));
        let data = WithTargets {
            views: Views::train(cx, images, recipe.augment, recipe.crop_scale.into(), seed),
            stored: stored.transpose()?,
            tokenizer,
        };
        let config = config(recipe, seed, images.dataset.len(Split::Train));
        let trained = training(cx, work, |run| pretrain(&vit, target, &config, &data, run));
        let unchanged = trained.and_then(|trained| {
            data.tokenizer.check_unchanged()?;
            Ok(trained)
        });
        // A later run must not go on from targets that were found to be wrong.
        let trained = unchanged.map_err(|error| match data.tokenizer.has_changed() {
            true => work.forget(error),
            false => error,
        })?;
        let saw_labels = data.tokenizer.facts().saw_labels;
        let metadata = || vit.metadata("none", saw_labels);
        let whole = work.out.join(CHECKPOINT);
        trained.params.save(&whole, metadata())?;
        let encoder = trained.params.copy(|name| !vit::is_of_decoder(name))?;
        encoder.save(&work.out.join(ENCODER), metadata())?;
        Ok(result(&trained.history))
    }

    fn product<'a>(&self, on: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let origin = Origin {
            row: self.row.name.clone(),
            seed: self.seed,
            provenance: json!({ self.name(): entry.key }),
            checkpoint: (entry.clone(), CHECKPOINT),
            saw_labels: on.tokenizer()?.facts().saw_labels,
        };
        let encoder = Encoder::new(on.cx, on.images, origin)?;
        Ok(Product::Encoder(Box::new(encoder)))
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[CHECKPOINT, ENCODER]
    }

    fn describe(&self, record: &mut Record) {
        record.encoder = "pretrained".into();
        record.pretrain_epochs = Some(self.recipe.epochs);
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        record.pretrain_loss = done.number("loss");
        Ok(())
    }
}

impl Pretrain<'_> {
    /// Returns the maximum number of images that pretraining tokenizes, and the bytes of the ids it stores. Stored ids are those of every
    /// image and its mirror image, computed once for all seeds.
    fn tokenized(&self, rates: &Rates<'_>) -> (f64, f64) {
        let train = rates.counts()[0];
        if !self.stores_ids(rates) {
            return (train * self.recipe.epochs as f64, 0.0);
        }
        if !rates.is_first(&self.row.name) {
            return (0.0, 0.0);
        }
        let target = rates.plan(self.row).and_then(|plan| plan.target);
        let each = rates.vit.num_patches() * target.map_or(1, TargetSpec::per_patch);
        let bytes = tokens::bytes(train as usize, each);
        (2.0 * train, 2.0 * bytes as f64)
    }

    /// Returns whether the ids of the row's tokenizer are stored.
    fn stores_ids(&self, rates: &Rates<'_>) -> bool {
        let plan = rates.plan(self.row);
        plan.is_some_and(|plan| {
            plan.gives_ids() && tokens::stores_ids(self.recipe) && !plan.looks_up
        })
    }
}

fn config(recipe: &suite::Pretrain, seed: u64, images: usize) -> PretrainConfig {
    let batch = recipe.batch.min(images).max(1);
    PretrainConfig {
        epochs: recipe.epochs,
        batch,
        lr: scaled(recipe.base_lr, batch),
        warmup_epochs: recipe.warmup_epochs,
        weight_decay: recipe.weight_decay,
        mask_ratio: recipe.mask_ratio,
        label_smoothing: recipe.label_smoothing,
        gradient_checkpointing: recipe.gradient_checkpointing,
        residual_stream: recipe.residual_stream.precision(),
        seed,
    }
}

fn result(history: &[models::EpochRecord]) -> Value {
    let loss = history.last().map(|epoch| epoch.train_loss);
    with_skipped(json!({"loss": loss, "history": history}), history)
}

/// Images with a tokenizer's targets of the same view.
pub struct WithTargets<'a> {
    /// The images.
    pub views: Views<'a>,
    /// The tokenizer.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// The targets, if they are stored.
    pub stored: Option<BothWays>,
}

impl PretrainData for WithTargets<'_> {
    fn len(&self) -> usize {
        ImageSource::len(&self.views)
    }

    fn shard(&self, epoch: usize, indices: &[usize]) -> models::Result<(Tensor, Targets)> {
        let view = self.views.view(epoch, indices)?;
        let rendered = Rendered::default();
        // A tokenizer that requests the same pixels as the model shares one rendering.
        let shared = view.as_view().sharing(&rendered);
        let targets = match &self.stored {
            Some(stored) => stored.of_view(&view)?,
            None => self.tokenizer.tokenize(&shared).map_err(tokenizer_error)?,
        };
        let patches = self.tokenizer.grid().num_patches();
        let targets = targets.checked(self.tokenizer.target(), indices.len(), patches)?;
        Ok((self.views.render(&shared)?, targets))
    }
}
