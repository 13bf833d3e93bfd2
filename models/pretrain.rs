//! Masked pretraining (MAE `models_mae.py`, ClusterMIM): the encoder processes the visible patches, the decoder predicts the targets of
//! the masked patches.

mod config;
mod masks;
mod resident;

pub use config::PretrainConfig;
pub use masks::Mask;
pub use resident::{Counts, Shape, counts};

use candle_core::{D, DType, Tensor};

use crate::compute::{Compute, Division};
use crate::cost::Task;
use crate::error::{Error, Result};
use crate::objective::{Objective, Settings, runs};
use crate::optim::{AdamW, Schedule};
use crate::params::ParamStore;
use crate::precision::Precision;
use crate::resume::EpochRecord;
use crate::targets::{Groups, TargetSpec, Targets};
use crate::train::{self, RunContext};
use crate::vit::{self, Pass, VitConfig};
use config::{BETAS, slots};
use masks::{Masked, Places, kept, masked};
use tessera_kernels::ops::{cross_entropy, gather_rows};

/// A data source that computes images and targets on demand.
pub trait PretrainData: Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the images `indices` with the augmentation of epoch `epoch`, `[indices, 3, side, side]` f32 normalised, and their targets.
    ///
    /// # Errors
    /// If an image cannot be read or tokenized.
    fn shard(&self, epoch: usize, indices: &[usize]) -> Result<(Tensor, Targets)>;
}

/// A pretrained model.
pub struct Pretrained {
    /// Encoder and decoder.
    pub params: ParamStore,
    /// One record per epoch.
    pub history: Vec<EpochRecord>,
}

/// Pretrains a new model.
///
/// # Errors
/// [`Error::Interrupted`], [`Error::NotFinite`], or an error of the data source.
pub fn pretrain(
    vit: &VitConfig,
    target: TargetSpec,
    config: &PretrainConfig,
    data: &dyn PretrainData,
    cx: &RunContext<'_>,
) -> Result<Pretrained> {
    let encoder = vit::encoder(vit, config.seed)?;
    let params = vit::decoder(encoder, vit, target.head_width(), config.seed)?;
    let resident = cx.compute.resident();
    let resident = resident.filter(|_| resident::supports(vit, target));
    let rounds = resident.is_none() && cx.compute.tokens() == DType::BF16;
    if rounds && config.residual_stream == Precision::F32 {
        return Err(Error::Config(
            "found residual_stream: f32 for a model that this device trains with a graph, whose residual stream is bf16; expected heads of \
             16, 32, ..., 128 numbers, groups of codes of equal size and no TESSERA_GPU_DEFAULTS=graph, or precision: f32"
                .into(),
        ));
    }
    let compute = match resident {
        Some(_) => &Compute::default(),
        None => &cx.compute,
    };
    let params = params.on(compute)?;
    let objective = MaskedPrediction {
        vit,
        config,
        data,
        params: &params,
    };
    let history = match resident {
        Some(device) => {
            let (model, settings) = ((vit, &params), settings(config, data.len()));
            resident::pretrain(device, target, model, &objective, config, &settings, cx)?
        }
        None => fit(&params, config, data.len(), &objective, cx)?,
    };
    let params = params.on(&Compute::default())?;
    Ok(Pretrained { params, history })
}

/// Returns MAE's schedule over `len` images.
fn settings(config: &PretrainConfig, len: usize) -> Settings {
    Settings {
        epochs: config.epochs,
        batch: config.batch,
        len,
        seed: config.seed,
        order: "order",
        schedule: Schedule {
            lr: config.lr,
            min_lr: 0.0,
            warmup_epochs: config.warmup_epochs,
            epochs: config.epochs as f64,
        },
    }
}

/// Trains with AdamW over `len` images.
fn fit(
    params: &ParamStore,
    config: &PretrainConfig,
    len: usize,
    objective: &impl Objective,
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let mut optimizer = AdamW::new(slots(params, config), BETAS, params.compute())?;
    let settings = settings(config, len);
    train::train(params, &mut optimizer, objective, &settings, cx)
}

struct MaskedPrediction<'a> {
    vit: &'a VitConfig,
    config: &'a PretrainConfig,
    data: &'a dyn PretrainData,
    params: &'a ParamStore,
}

impl MaskedPrediction<'_> {
    fn division(&self, batch: usize) -> Division {
        let kept = kept(self.vit.num_patches(), self.config.mask_ratio);
        let head = self.params.get("decoder_pred.bias").map(Tensor::elem_count);
        let head = head.unwrap_or_default();
        let task = Task::Pretrain { kept, head };
        self.params.compute().division(self.vit, task, batch)
    }
}

impl Objective for MaskedPrediction<'_> {
    type Prepared = Masked;

    fn recomputes(&self) -> bool {
        self.config.gradient_checkpointing
    }

    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        runs(len, self.division(len).shard)
    }

    fn prepare(
        &self,
        epoch: usize,
        _step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Masked> {
        let indices: Vec<usize> = shard.iter().map(|at| batch[*at]).collect();
        let (images, targets) = self.data.shard(epoch, &indices)?;
        let (patches, config) = (self.vit.num_patches(), self.config);
        let draw = |i: &usize| Mask::draw(config.seed, epoch, *i, patches, config.mask_ratio);
        Ok(Masked {
            images,
            targets,
            masks: indices.iter().map(draw).collect(),
            share: indices.len() as f64 / batch.len() as f64,
        })
    }

    fn together(&self) -> Option<usize> {
        self.division(self.config.batch).together
    }

    fn join(&self, shards: Vec<Masked>) -> Result<Masked> {
        Masked::join(shards, self.params.compute().device())
    }

    fn loss(&self, shard: Masked, pass: &Pass) -> Result<Tensor> {
        let loss = masked_loss(
            self.params,
            self.vit,
            &shard.images,
            &shard.targets,
            &shard.masks,
            self.config.label_smoothing,
            pass,
        )?;
        Ok((loss * shard.share)?)
    }
}

/// Computes the mean loss over the masked patches of all images.
///
/// # Shapes
/// `images` `[batch, 3, side, side]` f32 and `targets` of all patches, on the parameters' device or the CPU; one mask per image, all with
/// the same `num_kept`. Returns a scalar, f32.
///
/// # Errors
/// If shapes do not match.
pub fn masked_loss(
    params: &ParamStore,
    vit: &VitConfig,
    images: &Tensor,
    targets: &Targets,
    masks: &[Mask],
    label_smoothing: f64,
    pass: &Pass,
) -> Result<Tensor> {
    let (batch, patches) = (masks.len(), vit.num_patches());
    if masks.is_empty() {
        return Err(Error::Data("the shard has no images".into()));
    }
    let Places {
        keep,
        removed,
        restore,
    } = Places::of(&masks.iter().collect::<Vec<_>>(), patches);
    let images = images.to_device(params.compute().device())?;
    let seen = vit::embed_kept(params, vit, &images, keep)?;
    let encoded = vit::encode_tokens(params, vit, &seen, &|_, _| None, pass)?.normed(params)?;
    let predicted = vit::decode(params, vit, &encoded, restore, &removed, pass)?;
    let smoothing = label_smoothing as f32;
    match targets {
        Targets::Ids(ids) => {
            let ids: Vec<u32> = ids.flatten_all()?.to_vec1()?;
            Ok(cross_entropy(
                &predicted,
                masked(&removed, &ids, 1),
                smoothing,
            )?)
        }
        Targets::Codes(codes, groups) => {
            let codes = codes.flatten_all()?.to_vec1::<u32>()?;
            let codes = masked(&removed, &codes, groups.count());
            grouped_cross_entropy(&predicted, &codes, groups, smoothing)
        }
        Targets::Values(values) => {
            let dim = predicted.dim(D::Minus1)?;
            let values = values.reshape((batch * patches, dim))?;
            let values = gather_rows(&values, removed)?.to_device(predicted.device())?;
            let squares = (predicted.to_dtype(DType::F32)? - values)?.sqr()?;
            // Rows let a device sum in parallel.
            match params.compute().is_composed() {
                true => Ok(squares.mean(D::Minus1)?.mean_all()?),
                false => Ok(squares.mean_all()?),
            }
        }
    }
}

/// Computes the mean over the groups of the cross-entropy of each group's own softmax. `scores` `[rows, groups.total()]` are those of the
/// groups one after another, and `codes` `[rows, groups]`.
fn grouped_cross_entropy(
    scores: &Tensor,
    codes: &[u32],
    groups: &Groups,
    smoothing: f32,
) -> Result<Tensor> {
    let (size, rest) = (groups.sizes()[0], &groups.sizes()[1..]);
    if rest.iter().all(|other| *other == size) {
        // Without a copy of the scores: a row for each group has the same mean.
        let scores = scores.reshape(((), size as usize))?;
        return Ok(cross_entropy(&scores, codes.to_vec(), smoothing)?);
    }
    let mut losses = Vec::with_capacity(groups.count());
    let mut first = 0;
    for (group, size) in groups.sizes().iter().enumerate() {
        let own = scores.narrow(D::Minus1, first, *size as usize)?;
        losses.push(cross_entropy(
            &own,
            groups.of_group(group, codes),
            smoothing,
        )?);
        first += *size as usize;
    }
    Ok(Tensor::stack(&losses, 0)?.mean_all()?)
}

/// Computes `x - log sum exp x` over the last dimension, with the maximum subtracted first for stability.
pub(crate) fn log_softmax(scores: &Tensor) -> Result<Tensor> {
    let top = scores.max_keepdim(D::Minus1)?.detach();
    let shifted = scores.broadcast_sub(&top)?;
    let total = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&total)?)
}

#[cfg(test)]
mod tests;
