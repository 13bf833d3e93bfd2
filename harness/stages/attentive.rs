//! `attentive`: trains an attentive probe on the frozen patch tokens.
//!
//! The tokens of a train split at 224 px do not fit into memory, so those of a batch are computed when it is needed. Without augmentation,
//! those of a small train split are computed once.

use serde_json::{Value, json};
use tessera_models as models;
use tessera_models::attentive::{Attended, Form, Sizes, TokenData, attend};
use tessera_models::cost::Task;
use tessera_models::probe::ProbeConfig;
use tessera_models::vit::Layer;
use tessera_reports::Record;
use tessera_tokenizers::Split;

use super::common::context::StageError;
use super::common::encoder::Encoder;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Done, Inputs, Stage};
use super::common::training::{evaluated, scaled, training};
use super::common::views::Views;
use crate::store::Workspace;
use crate::suite::{AttentiveForm, AttentiveProbe, Augment, ProbeOptimizer};

const VERSION: u32 = 2;
const PARAMETERS: &str = "attentive.safetensors";
/// Maximum bytes of tokens that are kept.
const KEPT: usize = 1 << 29;

/// The attentive probe of a row and a seed.
pub type Attentive<'a> = Cell<'a, &'a AttentiveProbe>;

impl Stage for Attentive<'_> {
    fn name(&self) -> &'static str {
        "attentive"
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
        let vit = &rates.vit;
        let width = recipe.layer.width(vit.preset.width) as f64;
        let patches = vit.num_patches() as f64;
        let form = form(recipe, vit.preset.heads);
        let classes = rates.images.scan.classes.len() as f64;
        let tried = recipe.base_lr.all().len();
        let trainings = if tried > 1 { tried + 1 } else { 1 } as f64;
        let seen = trainings * recipe.epochs as f64 * train;
        let token = 4.0 * patches * width;
        let kept = self.keeps(train as usize, token as usize);
        let encoded = val + if kept { train } else { seen };
        // Scores and means of the tokens, forward and backward, and the matrices of the form and of the head.
        let each =
            8.0 * patches * form.readers() as f64 * width + 6.0 * width * (3.0 * width + classes);
        let parameters =
            1600.0 + 4.0 * width * (form.readers() as f64 + 4.0 * width + classes + 8.0);
        let shown = parameters + rates.predictions(5.min(classes as usize));
        let batch = (recipe.batch as f64).min(train);
        Ok(Cost {
            seconds: rates.decoding(encoded)
                + encoded * rates.render
                + rates.seconds_of(Task::Encode, encoded)
                + seen * each / rates.flops,
            // A list of shards is joined, and the batch is copied from the kept tokens. Gradients are summed for every 16 images.
            memory: rates.encoding_memory()
                + 4.0 * batch * width * (width / 16.0 + 3.0 * form.readers() as f64)
                + token
                    * if kept {
                        2.0 * train + batch
                    } else {
                        2.0 * batch
                    },
            disk: rates.disk(shown, shown, 1) + rates.epochs(recipe.epochs),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (cx, encoder, recipe) = (on.cx, on.encoder()?, self.recipe);
        let dataset = &on.images.dataset;
        let labels = dataset.labels(Split::Train);
        let scale = recipe.crop_scale.into();
        let sizes = Sizes {
            patches: encoder.vit.num_patches(),
            width: recipe.layer.width(encoder.vit.preset.width),
            classes: on.images.scan.classes.len(),
        };
        let mut train = Tokens {
            views: Views::train(cx, on.images, recipe.augment, scale, self.seed),
            layer: recipe.layer,
            numbers: sizes.patches * sizes.width,
            kept: None,
            encoder,
        };
        if self.keeps(labels.len(), 4 * train.numbers) {
            let all: Vec<usize> = (0..labels.len()).collect();
            train.kept = Some(train.tokens(0, &all)?);
        }
        let val = Tokens {
            views: Views::eval(cx, on.images, Split::Val),
            kept: None,
            ..train
        };
        let form = form(recipe, encoder.vit.preset.heads);
        let config = config(recipe, self.seed, labels.len());
        let data: (&dyn TokenData, &[u32]) = (&train, labels);
        let val: (&dyn TokenData, &[u32]) = (&val, dataset.labels(Split::Val));
        let attended = training(cx, work, |run| attend(form, &config, sizes, data, val, run))?;
        let metadata = encoder.vit.metadata("none", false);
        attended.params.save(&work.out.join(PARAMETERS), metadata)?;
        let mut result = evaluated(self.name(), work, &attended.evaluation, &attended.history)?;
        self.add_training(&mut result, &attended);
        Ok(result)
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[PARAMETERS]
    }

    fn describe(&self, record: &mut Record) {
        record.ap_form = match self.recipe.form {
            AttentiveForm::MultiQuery => format!("multi-query {}", self.recipe.multi_queries()),
            AttentiveForm::SingleQuery => "single-query".to_owned(),
        };
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        record.ap_base_lr = done.number("base_lr");
        Ok(())
    }
}

impl Attentive<'_> {
    /// Returns whether the tokens of `images` train images of `bytes` each are kept.
    fn keeps(&self, images: usize, bytes: usize) -> bool {
        self.recipe.augment == Augment::None && images.saturating_mul(bytes) <= KEPT
    }

    /// Writes the rate and how it was chosen.
    fn add_training(&self, result: &mut Value, attended: &Attended) {
        let rates = self.recipe.base_lr.all();
        let best = attended.choice.as_ref().map_or(0, |choice| choice.best);
        result["base_lr"] = json!(rates.get(best));
        if let Some(choice) = &attended.choice {
            let (images, top1, loss) = (choice.images, &choice.top1, &choice.loss);
            let found = json!({"images": images, "base_lr": rates, "top1": top1, "loss": loss});
            result["held_out"] = found;
        }
    }
}

fn form(recipe: &AttentiveProbe, heads: usize) -> Form {
    match recipe.form {
        AttentiveForm::MultiQuery => Form::MultiQuery {
            queries: recipe.multi_queries(),
        },
        AttentiveForm::SingleQuery => Form::SingleQuery { heads },
    }
}

fn config(recipe: &AttentiveProbe, seed: u64, images: usize) -> ProbeConfig {
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

/// Frozen tokens of views.
struct Tokens<'a> {
    encoder: &'a Encoder<'a>,
    views: Views<'a>,
    layer: Layer,
    /// Numbers per image.
    numbers: usize,
    /// The tokens of all images, if they do not differ between epochs and fit into memory.
    kept: Option<Vec<f32>>,
}

impl TokenData for Tokens<'_> {
    fn tokens(&self, epoch: usize, indices: &[usize]) -> models::Result<Vec<f32>> {
        let Some(kept) = &self.kept else {
            return self
                .encoder
                .patches(&self.views, epoch, indices, self.layer);
        };
        let mut tokens = Vec::with_capacity(indices.len() * self.numbers);
        for index in indices {
            tokens.extend_from_slice(&kept[index * self.numbers..][..self.numbers]);
        }
        Ok(tokens)
    }
}
