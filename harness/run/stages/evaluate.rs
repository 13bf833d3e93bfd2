//! `knn`, `probe`, `finetune`: what an encoder is worth.

use std::cell::OnceCell;
use std::path::Path;

use serde_json::{Value, json};
use tessera_models::encode::{self, Frozen, Pool};
use tessera_models::finetune::{self, FinetuneConfig};
use tessera_models::knn::{self, Labelled};
use tessera_models::probe::{self, Evaluation, ProbeConfig, ProbeData};
use tessera_models::vit::{self, VitConfig};
use tessera_models::{self as models, ImageSource, ParamStore};
use tessera_tokenizers::Split;

use super::sources::Looks;
use super::{pretrain, scan, training, with_skipped};
use crate::metrics::write_npy;
use crate::run::cell::Trained;
use crate::run::context::{Context, Images, Mode, StageError};
use crate::store::{Entry, Provenance};
use crate::suite::{Augment, FineTune, Knn, LinearProbe, Pooling, ProbeOptimizer};

const KNN_VERSION: u32 = 3;
const PROBE_VERSION: u32 = 3;
const FINETUNE_VERSION: u32 = 3;

/// An encoder under evaluation: read and run only when a stage isn't stored.
pub struct Encoder<'a> {
    cx: &'a Context<'a>,
    images: &'a Images,
    vit: VitConfig,
    seed: u64,
    checkpoint: Option<(Entry, &'static str)>,
    /// What later keys say about it.
    origin: Value,
    params: OnceCell<ParamStore>,
    train: OnceCell<Frozen>,
    val: OnceCell<Frozen>,
}

impl<'a> Encoder<'a> {
    /// The encoder that was `made` by a stage, or a random one.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn new(
        cx: &'a Context<'a>,
        images: &'a Images,
        made: Option<&(Trained, Entry)>,
        seed: u64,
    ) -> Result<Self, StageError> {
        let origin = match made {
            Some((which, entry)) => json!({which.name(): entry.key}),
            None => json!({"random": seed, "backbone": cx.suite.file.backbone}),
        };
        let file = |which: Trained| match which {
            Trained::Import => pretrain::ENCODER,
            _ => pretrain::CHECKPOINT,
        };
        Ok(Self {
            cx,
            images,
            vit: pretrain::model(cx)?,
            seed,
            checkpoint: made.map(|(which, entry)| (entry.clone(), file(*which))),
            origin,
            params: OnceCell::new(),
            train: OnceCell::new(),
            val: OnceCell::new(),
        })
    }

    fn params(&self) -> models::Result<&ParamStore> {
        if let Some(params) = self.params.get() {
            return Ok(params);
        }
        let params = vit::encoder(&self.vit, self.seed)?;
        if let Some((entry, name)) = &self.checkpoint {
            let path = entry.file(name);
            params.load(&path.map_err(|e| models::Error::Data(e.to_string()))?)?;
        }
        let params = params.on(&self.cx.compute)?;
        Ok(self.params.get_or_init(|| params))
    }

    /// Both vectors of every image of a split under the evaluation transform.
    fn frozen(&self, split: Split) -> models::Result<&Frozen> {
        let cell = match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        };
        if let Some(frozen) = cell.get() {
            return Ok(frozen);
        }
        let source = Looks::eval(self.cx, self.images, split);
        let indices: Vec<usize> = (0..source.len()).collect();
        let stop = self.cx.stop;
        let interrupted = move || stop.load(std::sync::atomic::Ordering::Relaxed);
        let frozen = encode::encode(
            self.params()?,
            &self.vit,
            &source,
            0,
            &indices,
            &interrupted,
        )?;
        Ok(cell.get_or_init(|| frozen))
    }

    fn labels(&self, split: Split) -> &'a [u32] {
        self.images.dataset.labels(split)
    }

    fn labelled(&self, split: Split, pool: Pool) -> models::Result<Labelled<'_>> {
        Ok(Labelled {
            features: self.frozen(split)?.pooled(pool),
            labels: self.labels(split),
        })
    }

    fn classes(&self) -> usize {
        self.images.scan.classes.len()
    }

    fn provenance(
        &self,
        stage: &'static str,
        version: u32,
        label: &str,
        recipe: Value,
        seed: Option<u64>,
    ) -> Provenance {
        let inputs = json!({
            "version": version,
            "encoder": self.origin,
            "images": scan::provenance(self.cx, self.images),
            "recipe": recipe,
            "seed": seed,
            "numerics": self.cx.model_numerics(None),
        });
        Provenance {
            stage,
            label: label.to_owned(),
            inputs,
        }
    }
}

/// Accuracy of weighted k-NN on the validation split: `{"top1": percent}`.
///
/// # Errors
/// [`StageError`].
pub fn knn(
    encoder: &Encoder<'_>,
    mode: Mode,
    label: &str,
    recipe: &Knn,
) -> Result<Option<Entry>, StageError> {
    let provenance = encoder.provenance("knn", KNN_VERSION, label, json!(recipe), None);
    encoder.cx.stage(mode, &provenance, |_| {
        let pool = pool(recipe.pooling);
        let bank = encoder.labelled(Split::Train, pool)?;
        let queries = encoder.labelled(Split::Val, pool)?;
        let dim = encoder.vit.preset.width;
        let found = knn::classify(
            bank,
            queries.features,
            dim,
            encoder.classes(),
            recipe.k,
            recipe.temperature,
        )?;
        let right = found
            .iter()
            .zip(queries.labels)
            .filter(|(a, b)| a == b)
            .count();
        Ok(json!({"top1": 100.0 * right as f64 / found.len() as f64}))
    })
}

/// The linear probe.
///
/// # Errors
/// [`StageError`].
pub fn probe(
    encoder: &Encoder<'_>,
    mode: Mode,
    label: &str,
    recipe: &LinearProbe,
) -> Result<Option<Entry>, StageError> {
    let seed = encoder.seed;
    let provenance = encoder.provenance("probe", PROBE_VERSION, label, json!(recipe), Some(seed));
    encoder.cx.stage(mode, &provenance, |work| {
        let pool = pool(recipe.pooling);
        let labels = encoder.labels(Split::Train);
        let batch = recipe.batch.min(labels.len()).max(1);
        let config = ProbeConfig {
            epochs: recipe.epochs,
            batch,
            lr: super::scaled(recipe.base_lr, batch),
            warmup_epochs: recipe.warmup_epochs,
            weight_decay: recipe.weight_decay,
            lars: recipe.optimizer == ProbeOptimizer::Lars,
            seed,
        };
        let val = encoder.labelled(Split::Val, pool)?;
        let augmented;
        let once;
        let train: &dyn ProbeData = if recipe.augment == Augment::None {
            once = (encoder.frozen(Split::Train)?, pool);
            &once
        } else {
            let looks = Looks::train(
                encoder.cx,
                encoder.images,
                recipe.augment,
                recipe.crop_scale,
                seed,
            );
            augmented = Augmented {
                encoder,
                looks,
                pool,
            };
            &augmented
        };
        let probed = training(encoder.cx, work, |run| {
            probe::probe(
                &config,
                encoder.vit.preset.width,
                encoder.classes(),
                train,
                labels,
                val,
                run,
            )
        })?;
        probed.params.save(
            &work.out.join("probe.safetensors"),
            encoder.vit.metadata(recipe.pooling.name()),
        )?;
        finished(work.out, "probe", &probed.evaluation, &probed.history)
    })
}

/// Fine-tuning.
///
/// # Errors
/// [`StageError`].
pub fn finetune(
    encoder: &Encoder<'_>,
    mode: Mode,
    label: &str,
    recipe: &FineTune,
) -> Result<Option<Entry>, StageError> {
    let seed = encoder.seed;
    let provenance = encoder.provenance(
        "finetune",
        FINETUNE_VERSION,
        label,
        // The same numbers with and without.
        json!(FineTune {
            gradient_checkpointing: false,
            ..recipe.clone()
        }),
        Some(seed),
    );
    encoder.cx.stage(mode, &provenance, |work| {
        let (cx, images) = (encoder.cx, encoder.images);
        let policy = recipe.rand_augment().map_err(anyhow::Error::msg)?;
        let train = Looks::train(cx, images, recipe.augment, recipe.crop_scale, seed)
            .changed(policy, recipe.random_erasing);
        let val = Looks::eval(cx, images, Split::Val);
        let labels = encoder.labels(Split::Train);
        let config = finetune_config(recipe, seed, labels.len());
        let tuned = training(cx, work, |run| {
            let val: (&dyn ImageSource, &[u32]) = (&val, encoder.labels(Split::Val));
            let train: (&dyn ImageSource, &[u32]) = (&train, labels);
            finetune::finetune(
                &encoder.vit,
                encoder.params()?,
                &config,
                encoder.classes(),
                train,
                val,
                run,
            )
        })?;
        tuned.params.save(
            &work.out.join("finetuned.safetensors"),
            encoder.vit.metadata(recipe.pooling.name()),
        )?;
        finished(work.out, "finetune", &tuned.evaluation, &tuned.history)
    })
}

fn finetune_config(recipe: &FineTune, seed: u64, images: usize) -> FinetuneConfig {
    let batch = recipe.batch.min(images).max(1);
    FinetuneConfig {
        epochs: recipe.epochs,
        batch,
        lr: super::scaled(recipe.base_lr, batch),
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

/// Features of crops that differ from epoch to epoch.
struct Augmented<'a> {
    encoder: &'a Encoder<'a>,
    looks: Looks<'a>,
    pool: Pool,
}

impl ProbeData for Augmented<'_> {
    fn features(&self, epoch: usize, indices: &[usize]) -> models::Result<Vec<f32>> {
        let stop = self.encoder.cx.stop;
        let interrupted = move || stop.load(std::sync::atomic::Ordering::Relaxed);
        let (params, vit) = (self.encoder.params()?, &self.encoder.vit);
        let frozen = encode::encode(params, vit, &self.looks, epoch, indices, &interrupted)?;
        Ok(match self.pool {
            Pool::Cls => frozen.cls,
            Pool::Mean => frozen.mean,
        })
    }
}

fn pool(pooling: Pooling) -> Pool {
    match pooling {
        Pooling::Cls => Pool::Cls,
        Pooling::Mean => Pool::Mean,
    }
}

fn finished(
    out: &Path,
    what: &str,
    evaluation: &Evaluation,
    history: &[models::EpochRecord],
) -> anyhow::Result<Value> {
    let columns = evaluation.columns;
    let rows = evaluation.predictions.len() / columns.max(1);
    let path = out.join(format!("predictions-{what}.npy"));
    write_npy(
        &path,
        &[rows, columns],
        evaluation.predictions.iter().copied(),
    )?;
    let result = json!({"top1": evaluation.top1, "top5": evaluation.top5, "history": history});
    Ok(with_skipped(result, history))
}
