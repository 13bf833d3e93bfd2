//! Masked pretraining (MAE `models_mae.py`, ClusterMIM): the encoder processes the visible patches, the decoder predicts the targets of
//! the masked patches.

mod resident;

pub use resident::{Counts, counts};

use candle_core::{D, DType, Device, Tensor};
use rand::seq::SliceRandom;

use crate::compute::Compute;
use crate::cost::Task;
use crate::error::{Error, Result};
use crate::objective::{Objective, Settings, runs};
use crate::optim::{AdamW, Group, Schedule, Slot};
use crate::params::ParamStore;
use crate::resume::EpochRecord;
use crate::rng::keyed_rng;
use crate::targets::{Groups, TargetSpec, Targets};
use crate::train::{self, RunContext};
use crate::vit::{self, Pass, VitConfig};
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

/// Hyperparameters of pretraining.
#[derive(Clone, Debug)]
pub struct PretrainConfig {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Weight decay of tensors with more than one dimension.
    pub weight_decay: f64,
    /// Fraction of the patches that is masked.
    pub mask_ratio: f64,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
    /// Store only the blocks' inputs for the backward, and recompute each block.
    pub gradient_checkpointing: bool,
    /// Seed of initialisation, order and masks.
    pub seed: u64,
}

/// AdamW's betas in MAE.
const BETAS: (f64, f64) = (0.9, 0.95);

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

/// Returns the trained variables with MAE's groups.
fn slots(params: &ParamStore, config: &PretrainConfig) -> Vec<Slot> {
    let decays = |_: &str, var: &Tensor| Group {
        lr_scale: 1.0,
        weight_decay: if var.rank() > 1 {
            config.weight_decay
        } else {
            0.0
        },
    };
    train::slots(params, decays)
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

impl Objective for MaskedPrediction<'_> {
    type Prepared = Masked;

    fn recomputes(&self) -> bool {
        self.config.gradient_checkpointing
    }

    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        runs(len, self.vit.shard())
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
        let kept = kept(self.vit.num_patches(), self.config.mask_ratio);
        let head = self.params.get("decoder_pred.bias").map(Tensor::elem_count);
        let head = head.unwrap_or_default();
        let task = Task::Pretrain { kept, head };
        let images = self.params.compute().images_at_once(self.vit, task)?;
        Some((images / self.vit.shard()).max(1))
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

/// A shard's input.
struct Masked {
    /// `[images, 3, side, side]`
    images: Tensor,
    /// Targets of all patches.
    targets: Targets,
    /// One per image.
    masks: Vec<Mask>,
    /// The shard's fraction of the batch.
    share: f64,
}

impl Masked {
    /// Joins several shards and moves their images to `device`.
    fn join(shards: Vec<Self>, device: &Device) -> Result<Self> {
        let images = shards.iter().map(|shard| shard.images.to_device(device));
        let images = Tensor::cat(&images.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        Ok(Self {
            images,
            share: shards.iter().map(|shard| shard.share).sum(),
            targets: Targets::cat(&shards.iter().map(|s| &s.targets).collect::<Vec<_>>())?,
            masks: shards.into_iter().flat_map(|shard| shard.masks).collect(),
        })
    }
}

/// Returns the number of visible patches, `int(N * (1 - mask_ratio))`, with at least one visible and one masked patch.
fn kept(patches: usize, mask_ratio: f64) -> usize {
    ((patches as f64 * (1.0 - mask_ratio)) as usize).clamp(1, patches - 1)
}

/// The visible and masked patches of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// A permutation of the patches: the first `num_kept` are visible, the rest is masked and predicted.
    pub shuffled: Vec<u32>,
    /// Number of visible patches.
    pub num_kept: usize,
}

impl Mask {
    /// Draws uniformly without replacement from (seed, epoch, image).
    pub fn draw(seed: u64, epoch: usize, image: usize, patches: usize, mask_ratio: f64) -> Self {
        let mut shuffled: Vec<u32> = (0..patches as u32).collect();
        shuffled.shuffle(&mut keyed_rng(seed, "mask", epoch as u64, image as u64));
        Self {
            shuffled,
            num_kept: kept(patches, mask_ratio),
        }
    }

    /// Returns the row of each patch in the order (visible, masked).
    fn restore(&self) -> Vec<u32> {
        let mut restore = vec![0; self.shuffled.len()];
        self.shuffled
            .iter()
            .enumerate()
            .for_each(|(row, patch)| restore[*patch as usize] = row as u32);
        restore
    }
}

/// The patches of a batch as rows of `[batch * patches]`.
struct Places {
    /// The visible patches, image by image.
    keep: Vec<u32>,
    /// The masked patches.
    removed: Vec<u32>,
    /// Each patch's place in the order (visible, masked) of its image.
    restore: Vec<u32>,
}

impl Places {
    fn of(masks: &[&Mask], patches: usize) -> Self {
        let rows = |pick: &dyn Fn(&Mask) -> &[u32]| -> Vec<u32> {
            let all = masks.iter().enumerate().flat_map(|(image, mask)| {
                let rows = pick(mask).iter();
                rows.map(move |row| (image * patches) as u32 + row)
            });
            all.collect()
        };
        Self {
            keep: rows(&|mask| &mask.shuffled[..mask.num_kept]),
            removed: rows(&|mask| &mask.shuffled[mask.num_kept..]),
            restore: masks.iter().flat_map(|mask| mask.restore()).collect(),
        }
    }
}

/// Returns the codes of the masked patches `removed` from those of all patches, `groups` per patch.
fn masked(removed: &[u32], codes: &[u32], groups: usize) -> Vec<u32> {
    let rows = removed.iter();
    let codes = rows.flat_map(|row| &codes[*row as usize * groups..][..groups]);
    codes.copied().collect()
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
