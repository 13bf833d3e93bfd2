//! What a step asks of a device, counted on a ledger, and how many images fit into memory.

use std::collections::BTreeMap;

use candle_core::{DType, Device as CandleDevice, Tensor};
use tessera_kernels::device::launcher::Device;
use tessera_kernels::device::ledger::{Ledger, Line};
use tessera_kernels::ops::adamw::Steps;

use super::model::{Numbers, Resident, supports};
use crate::compute::MOST_NUMBERS;
use crate::error::{Error, Result};
use crate::params::ParamStore;
use crate::precision::Precision;
use crate::pretrain::config::BETAS;
use crate::pretrain::masks::{Mask, Masked, kept};
use crate::targets::{TargetSpec, Targets};
use crate::vit::{self, VitConfig};

/// What a step of pretraining asks of a device.
#[derive(Clone, Debug)]
pub struct Counts {
    /// By kernel, form of matrix product, or kind of copy.
    pub lines: BTreeMap<String, Line>,
    /// Largest number of bytes allocated at the same time.
    pub most_bytes: u64,
    /// Number of kernels and matrix products.
    pub launches: u64,
    /// Bytes of all calls.
    pub bytes: u64,
    /// Bytes of the unit of traffic: the activations of one width of all blocks, in bf16.
    pub unit: u64,
}

/// What of a recipe changes how much a step asks for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Fraction of the patches that is masked.
    pub mask_ratio: f64,
    /// Type of the residual stream.
    pub residual_stream: Precision,
}

/// A model on a ledger.
pub(super) struct Counted<'a> {
    pub(super) ledger: Ledger,
    resident: Resident<'a>,
    target: TargetSpec,
    mask_ratio: f64,
}

impl<'a> Counted<'a> {
    pub(super) fn new(
        vit: &'a VitConfig,
        params: &ParamStore,
        target: TargetSpec,
        shape: Shape,
    ) -> Result<Self> {
        let ledger = Ledger::default();
        let with = Numbers {
            label_smoothing: 0.0,
            residual_stream: shape.residual_stream,
        };
        let mut resident = Resident::new(&ledger.device(), vit, params, with)?;
        // The first step makes room for its report, which later ones use.
        resident.begin(1)?;
        ledger.clear();
        Ok(Self {
            ledger,
            resident,
            target,
            mask_ratio: shape.mask_ratio,
        })
    }

    /// Counts recorded parts from now on.
    pub(super) fn recording(mut self) -> Self {
        self.resident = self.resident.recording(true);
        self
    }

    /// Returns input without contents, which takes no memory.
    fn shard(&self, images: usize) -> Result<Masked> {
        let (side, patches) = (
            self.resident.vit.image_size,
            self.resident.vit.num_patches(),
        );
        let zeros = |shape: &[usize], dtype| {
            // One number, repeated without memory.
            let one = Tensor::zeros((), dtype, &CandleDevice::Cpu)?;
            one.broadcast_as(shape)
        };
        let targets = match self.target {
            TargetSpec::Ids { .. } => Targets::Ids(zeros(&[images, patches], DType::U32)?),
            TargetSpec::Codes { groups } => {
                let shape = [images, patches, groups.count()];
                Targets::Codes(zeros(&shape, DType::U32)?, groups)
            }
            TargetSpec::Values { dim } => {
                Targets::Values(zeros(&[images, patches, dim], DType::F32)?)
            }
        };
        let mask = Mask::draw(0, 0, 0, patches, self.mask_ratio);
        Ok(Masked {
            images: zeros(&[images, 3, side, side], DType::F32)?,
            targets,
            masks: vec![mask; images],
            share: 1.0,
        })
    }

    /// Runs a step with one part of `images` images.
    pub(super) fn step(&mut self, images: usize) -> Result<()> {
        let shard = self.shard(images)?;
        self.resident.begin(1)?;
        let ready = self.resident.prepare(vec![shard])?;
        self.resident.part(ready)?;
        self.resident.loss()?;
        let tensors = self.resident.weights.tensors();
        self.resident.update(&Steps {
            rate: vec![0.0; tensors],
            decay: vec![1.0; tensors],
            betas: [BETAS.0 as f32, BETAS.1 as f32],
            correction: 1.0,
        })
    }
}

/// Counts a step of pretraining in one part of `images` images.
///
/// # Errors
/// [`Error::Config`] if the kernels do not support the model.
pub fn counts(vit: &VitConfig, target: TargetSpec, shape: Shape, images: usize) -> Result<Counts> {
    if !supports(vit, target) {
        return Err(Error::Config(format!(
            "found backbone {} for {target:?}; the ledger needs heads of 16, 32, ..., 128 numbers and groups of equal sizes",
            vit.preset.name
        )));
    }
    let params = vit::decoder(vit::encoder(vit, 0)?, vit, target.head_width(), 0)?;
    let mut counted = Counted::new(vit, &params, target, shape)?;
    counted.step(images)?;
    let (p, patches) = (vit.preset, vit.num_patches());
    let kept = kept(patches, shape.mask_ratio);
    let encoder = p.depth * (1 + kept) * p.width;
    // The last block of the decoder computes only the masked patches.
    let decoder = ((p.decoder_depth - 1) * (1 + patches) + patches - kept) * p.decoder_width;
    Ok(Counts {
        lines: counted.ledger.lines(),
        most_bytes: counted.ledger.most_bytes(),
        launches: counted.ledger.launches(),
        bytes: counted.ledger.bytes(),
        unit: 2 * (images * (encoder + decoder)) as u64,
    })
}

/// The limits of a part of a batch.
pub(super) struct Fits<'a> {
    pub device: &'a Device,
    /// Memory of the device in bytes, whatever other programs use: parts, and so the order of sums, must not depend on them.
    pub memory: usize,
    /// Images of a step.
    pub most: usize,
    /// Images of a shard.
    pub least: usize,
}

impl Fits<'_> {
    /// Returns the bytes for everything. A tenth stays free for fragmentation, the workspace of products and loaders.
    fn room(&self) -> u64 {
        self.memory as u64 / 10 * 9
    }

    /// Returns the bytes of the loaders' queue, which holds up to two steps.
    fn waiting(&self, vit: &VitConfig, target: TargetSpec) -> u64 {
        2 * self.most as u64 * tensor_bytes(vit, target)
    }
}

/// Returns how many images to compute in one part.
///
/// # Errors
/// [`Error::Config`] if not even a shard fits, or if the device has less free memory than the part needs.
pub(super) fn images_at_once(
    fits: &Fits<'_>,
    (vit, params): (&VitConfig, &ParamStore),
    target: TargetSpec,
    shape: Shape,
) -> Result<usize> {
    let mut counted = Counted::new(vit, params, target, shape)?;
    let mut most = |images| -> Result<u64> {
        counted.ledger.clear();
        counted.step(images)?;
        Ok(counted.ledger.most_bytes())
    };
    let (one, two) = (most(16)?, most(32)?);
    let image = (two - one).div_ceil(16);
    let model = one.saturating_sub(16 * image);
    let waiting = fits.waiting(vit, target);
    let room = fits.room().saturating_sub(model + waiting) / image;
    let kept = kept(vit.num_patches(), shape.mask_ratio);
    let most = MOST_NUMBERS / most_numbers(vit, target, kept);
    let images = (room as usize).min(fits.most).min(most);
    let needed = model + waiting + images.max(fits.least) as u64 * image;
    let free = fits.device.free_bytes()? as u64;
    if images < fits.least || free < needed {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        return Err(Error::Config(format!(
            "pretraining {} on {} needs {} for {} images at once; found {} of memory, {} free; use a smaller backbone, batch or image_size, or end other programs on this GPU",
            vit.preset.name,
            fits.device.name(),
            gib(needed),
            images.max(fits.least),
            gib(fits.memory as u64),
            gib(free),
        )));
    }
    Ok(images)
}

/// Returns whether parts of `images` images fit when they are recorded: their input then takes memory twice.
pub(super) fn recorded_fit(
    fits: &Fits<'_>,
    (vit, params): (&VitConfig, &ParamStore),
    target: TargetSpec,
    shape: Shape,
    images: usize,
) -> Result<bool> {
    let mut counted = Counted::new(vit, params, target, shape)?.recording();
    // The first step records, the second copies its input to that of the recording.
    (0..2).try_for_each(|_| counted.step(images))?;
    let needed = counted.ledger.most_bytes() + fits.waiting(vit, target);
    let free = fits.device.free_bytes()? as u64;
    Ok(needed <= fits.room().min(free))
}

/// Returns the bytes of an image's pixels and values in the loaders' queue.
fn tensor_bytes(vit: &VitConfig, target: TargetSpec) -> u64 {
    let pixels = 3 * vit.image_size * vit.image_size;
    let values = match target {
        TargetSpec::Values { dim } => vit.num_patches() * dim,
        _ => 0,
    };
    4 * (pixels + values) as u64
}

/// Returns how many numbers an image adds to the largest matrix.
fn most_numbers(vit: &VitConfig, target: TargetSpec, kept: usize) -> usize {
    let (p, patches) = (vit.preset, vit.num_patches());
    let scores = (patches - kept) * target.head_width();
    let hidden = [(1 + kept) * p.width, (1 + patches) * p.decoder_width];
    scores.max(4 * hidden[0]).max(4 * hidden[1])
}
