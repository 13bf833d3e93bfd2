//! Fine-tuning (MAE `main_finetune.py`) of the encoder and a new head, with layer-wise learning rates, drop path, mixup and CutMix.

mod config;
mod mix;

pub use config::FinetuneConfig;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_distr::{Distribution, Normal};

use mix::Mix;

use crate::compute::{Compute, Division};
use crate::cost::Task;
use crate::encode::{self, ImageSource, Pool};
use crate::error::{Error, Result};
use crate::objective::{Objective, Settings, runs};
use crate::optim::{AdamW, Group, Schedule};
use crate::params::ParamStore;
use crate::pretrain::log_softmax;
use crate::probe::{Evaluation, evaluate};
use crate::resume::EpochRecord;
use crate::rng::keyed_rng;
use crate::train::{self, RunContext};
use crate::vit::{self, Pass, VitConfig};

/// A fine-tuned model.
pub struct Finetuned {
    /// Encoder, `fc_norm` (or `norm`) and `head`.
    pub params: ParamStore,
    /// One record per epoch.
    pub history: Vec<EpochRecord>,
    /// Accuracy after the last epoch.
    pub evaluation: Evaluation,
}

/// Fine-tunes a copy of `encoder` on `train` and evaluates it on `val`, on the device of `cx`.
///
/// # Errors
/// [`Error::Interrupted`], [`Error::NotFinite`], or an error of a source.
pub fn finetune(
    vit: &VitConfig,
    encoder: &ParamStore,
    config: &FinetuneConfig,
    classes: usize,
    train: (&dyn ImageSource, &[u32]),
    val: (&dyn ImageSource, &[u32]),
    cx: &RunContext<'_>,
) -> Result<Finetuned> {
    let params = with_head(encoder, vit, config, classes)?.on(&cx.compute)?;
    let objective = Classify {
        vit,
        config,
        params: &params,
        classes,
        images: train.0,
        labels: train.1,
    };
    let history = fit(&params, vit, config, train.1.len(), &objective, cx)?;
    let scores = scores(&params, vit, config.pool, val.0, cx)?;
    let evaluation = evaluate(&scores, classes, val.1);
    Ok(Finetuned {
        params: params.on(&Compute::default())?,
        history,
        evaluation,
    })
}

/// Trains with AdamW, layer-wise rates and MAE's schedule over `len` images.
fn fit(
    params: &ParamStore,
    vit: &VitConfig,
    config: &FinetuneConfig,
    len: usize,
    objective: &impl Objective,
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let depth = vit.preset.depth;
    let group = |name: &str, var: &Tensor| Group {
        lr_scale: layer_scale(name, depth, config.layer_decay),
        weight_decay: if decays(name, var) {
            config.weight_decay
        } else {
            0.0
        },
    };
    let slots = train::slots(params, group);
    let mut optimizer = AdamW::new(slots, (0.9, 0.999), params.compute())?;
    let settings = Settings {
        epochs: config.epochs,
        batch: config.batch,
        len,
        seed: config.seed,
        order: "order",
        schedule: Schedule {
            lr: config.lr,
            min_lr: config.min_lr,
            warmup_epochs: config.warmup_epochs,
            epochs: config.epochs as f64,
        },
    };
    train::train(params, &mut optimizer, objective, &settings, cx)
}

/// Returns the learning-rate factor of the parameter `name`: `decay^(depth + 1 - layer)`.
pub fn layer_scale(name: &str, depth: usize, decay: f64) -> f64 {
    decay.powi((depth + 1 - layer(name, depth)) as i32)
}

/// Returns a parameter's layer (MAE `util/lr_decay.py::get_layer_id_for_vit`): 0 for embeddings, i + 1 for block i, else depth + 1.
pub fn layer(name: &str, depth: usize) -> usize {
    if ["cls_token", "pos_embed"].contains(&name) || name.starts_with("patch_embed") {
        return 0;
    }
    let block = name
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    block.map_or(depth + 1, |index| index + 1)
}

/// Class token, position embedding (timm's `no_weight_decay`) and tensors of one dimension have no weight decay.
fn decays(name: &str, var: &Tensor) -> bool {
    var.rank() > 1 && !["cls_token", "pos_embed"].contains(&name)
}

fn with_head(
    encoder: &ParamStore,
    vit: &VitConfig,
    config: &FinetuneConfig,
    classes: usize,
) -> Result<ParamStore> {
    let pooled = config.pool == Pool::Mean;
    let mut params =
        encoder.copy(|name| !(vit::is_of_decoder(name) || pooled && name.starts_with("norm.")))?;
    // Pretraining keeps the position embedding fixed; fine-tuning trains it.
    params.set_trainable("pos_embed", true);
    let width = vit.preset.width;
    if pooled {
        params.add("fc_norm.weight", &[width], vec![1.0; width], true)?;
        params.add("fc_norm.bias", &[width], vec![0.0; width], true)?;
    }
    let mut rng = keyed_rng(config.seed, "init head", 0, 0);
    let normal = Normal::new(0.0_f32, 2e-5).map_err(|e| Error::Config(e.to_string()))?;
    let weight = (0..classes * width)
        .map(|_| normal.sample(&mut rng))
        .collect();
    params.add("head.weight", &[classes, width], weight, true)?;
    params.add("head.bias", &[classes], vec![0.0; classes], true)?;
    Ok(params)
}

type Drop<'a> = &'a dyn Fn(usize, usize) -> Option<Vec<f32>>;

fn class_scores(
    params: &ParamStore,
    vit: &VitConfig,
    pool: Pool,
    images: &Tensor,
    drop: Drop<'_>,
    pass: &Pass,
) -> Result<Tensor> {
    let images = images.to_device(params.compute().device())?;
    let patches = vit::embed(params, vit, &images)?;
    let encoded = vit::encode_tokens(params, vit, &patches, drop, pass)?;
    let vector = match pool {
        Pool::Mean => {
            // A mean of many tokens needs f32.
            let tokens = encoded.tokens.to_dtype(DType::F32)?;
            let mean = tokens.narrow(1, 1, vit.num_patches())?.mean(1)?;
            vit::norm(params, "fc_norm", &mean)?
        }
        Pool::Cls => encoded
            .normed(params)?
            .narrow(1, 0, 1)?
            .squeeze(1)?
            .contiguous()?,
    };
    let vector = vector.to_dtype(params.compute().tokens())?;
    Ok(vit::logits(params, &vector)?.to_dtype(DType::F32)?)
}

fn scores(
    params: &ParamStore,
    vit: &VitConfig,
    pool: Pool,
    source: &dyn ImageSource,
    cx: &RunContext<'_>,
) -> Result<Vec<f32>> {
    let params = &params.frozen();
    let all: Vec<usize> = (0..source.len()).collect();
    let scores = encode::over_images(params, vit, source, 0, &all, cx.interrupted, &|images| {
        let pass = Pass::inference();
        let scores = class_scores(params, vit, pool, images, &|_, _| None, &pass)?;
        Ok(scores.flatten_all()?.to_vec1::<f32>()?)
    })?;
    Ok(scores.concat())
}

struct Classify<'a> {
    vit: &'a VitConfig,
    config: &'a FinetuneConfig,
    params: &'a ParamStore,
    classes: usize,
    images: &'a dyn ImageSource,
    labels: &'a [u32],
}

impl Classify<'_> {
    fn division(&self, batch: usize) -> Division {
        let classes = self.classes;
        let compute = self.params.compute();
        compute.division(self.vit, Task::FineTune { classes }, batch)
    }
}

impl Objective for Classify<'_> {
    type Prepared = Mixed;

    fn recomputes(&self) -> bool {
        self.config.gradient_checkpointing
    }

    /// Puts each position and its mirrored position, its partner in mixing, into the same shard, so each image is loaded once.
    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        let half = (self.division(len).shard / 2).max(1);
        let pairs = runs(len.div_ceil(2), half).into_iter();
        let mirrored = pairs.map(|low| {
            let mut all = low.clone();
            // The middle of an odd batch is its own partner.
            let high = low.iter().rev().map(|at| len - 1 - at);
            all.extend(high.filter(|at| !low.contains(at)));
            all
        });
        mirrored.collect()
    }

    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Mixed> {
        let mix = Mix::draw(self.config, step, self.vit.image_size)?;
        self.mixed(epoch, batch, shard, mix.as_ref())
    }

    fn together(&self) -> Option<usize> {
        self.division(self.config.batch).together
    }

    fn join(&self, shards: Vec<Mixed>) -> Result<Mixed> {
        Mixed::join(shards, self.params.compute().device())
    }

    /// Soft-target cross-entropy.
    fn loss(&self, shard: Mixed, pass: &Pass) -> Result<Tensor> {
        let drop = |block: usize, branch: usize| self.drop(&shard, block, branch);
        let scores = class_scores(
            self.params,
            self.vit,
            self.config.pool,
            &shard.images,
            &drop,
            pass,
        )?;
        let targets = shard.targets.to_device(scores.device())?;
        let loss = (log_softmax(&scores)? * targets)?.sum_all()?.neg()?;
        Ok((loss / shard.batch as f64)?)
    }
}

/// A shard's input.
struct Mixed {
    /// `[images, 3, side, side]`, mixed.
    images: Tensor,
    /// Soft targets, `[images, classes]`.
    targets: Tensor,
    epoch: usize,
    /// Indices of the images in the source.
    indices: Vec<usize>,
    /// Number of images in the whole batch.
    batch: usize,
}

impl Mixed {
    /// Joins several shards of a batch and moves their images to `device`.
    fn join(shards: Vec<Self>, device: &Device) -> Result<Self> {
        let images = shards.iter().map(|shard| shard.images.to_device(device));
        let images = Tensor::cat(&images.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let Some((epoch, batch)) = shards.first().map(|s| (s.epoch, s.batch)) else {
            return Err(Error::Data("the step has no images".into()));
        };
        Ok(Self {
            images,
            targets: Tensor::cat(&shards.iter().map(|s| &s.targets).collect::<Vec<_>>(), 0)?,
            epoch,
            indices: shards.into_iter().flat_map(|s| s.indices).collect(),
            batch,
        })
    }
}

impl Classify<'_> {
    /// Loads and mixes a shard of `batch`. timm's Mixup in batch mode mixes image i with image batch - 1 - i; a shard contains both.
    fn mixed(
        &self,
        epoch: usize,
        batch: &[usize],
        shard: &[usize],
        mix: Option<&Mix>,
    ) -> Result<Mixed> {
        let indices: Vec<usize> = shard.iter().map(|at| batch[*at]).collect();
        let partners: Vec<usize> = indices.iter().rev().copied().collect();
        let mut images = self.images.images(epoch, &indices)?;
        if let Some(mix) = mix {
            images = mix.blend(&images)?;
        }
        let keep = mix.map_or(1.0, |m| m.keep);
        Ok(Mixed {
            images,
            targets: self.targets(&indices, &partners, keep)?,
            epoch,
            indices,
            batch: batch.len(),
        })
    }

    /// Computes smoothed and mixed one-hot rows, `[indices, classes]`.
    fn targets(&self, indices: &[usize], partners: &[usize], keep: f64) -> Result<Tensor> {
        let smoothing = self.config.label_smoothing;
        let mut rows = vec![(smoothing / self.classes as f64) as f32; indices.len() * self.classes];
        for (row, (image, partner)) in rows
            .chunks_exact_mut(self.classes)
            .zip(indices.iter().zip(partners))
        {
            row[self.labels[*image] as usize] += (keep * (1.0 - smoothing)) as f32;
            row[self.labels[*partner] as usize] += ((1.0 - keep) * (1.0 - smoothing)) as f32;
        }
        Ok(Tensor::from_vec(
            rows,
            (indices.len(), self.classes),
            &Device::Cpu,
        )?)
    }

    /// Draws the factor of stochastic depth per image: 0 or 1 / (1 - rate).
    fn drop(&self, shard: &Mixed, block: usize, branch: usize) -> Option<Vec<f32>> {
        let last = (self.vit.preset.depth - 1).max(1);
        let rate = self.config.drop_path * block as f64 / last as f64;
        if rate == 0.0 {
            return None;
        }
        let stage = format!("drop {block} {branch}");
        let (seed, epoch) = (self.config.seed, shard.epoch as u64);
        let scales = shard.indices.iter().map(|image| {
            let dropped = keyed_rng(seed, &stage, epoch, *image as u64).random::<f64>() < rate;
            if dropped {
                0.0
            } else {
                (1.0 / (1.0 - rate)) as f32
            }
        });
        Some(scales.collect())
    }
}

#[cfg(test)]
mod tests;
