//! A model in training on a device: its steps in parts, and their input.

use candle_core::Tensor;
use tessera_kernels::device::launch::{Dtype, Float};
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_kernels::ops::adamw::Steps;
use tessera_kernels::ops::flat::CHUNK;
use tessera_kernels::ops::linear::launch::column_sums;

use crate::error::{Error, Result};
use crate::params::ParamStore;
use crate::precision::Precision;
use crate::pretrain::config::PretrainConfig;
use crate::pretrain::masks::{Masked, Places, masked};
use crate::targets::{TargetSpec, Targets};
use crate::vit::VitConfig;

use super::lists::Lists;
use super::ready::Ready;
use super::recorded::Recorded;
use super::step::{Input, Model};
use super::weights::Weights;

/// Numbers between the losses of two parts, so that each starts at a multiple of 16 bytes.
const STRIDE: usize = 4;

/// A model in training on a device.
pub(super) struct Resident<'a> {
    device: Device,
    pub(super) vit: &'a VitConfig,
    label_smoothing: f32,
    stream: Float,
    pub(super) weights: Weights,
    /// Sums of the gradient's columns in rows of [`CHUNK`] numbers, and the losses of the parts.
    report: Memory,
    /// The parts' shares of the batch.
    shares: Vec<f64>,
    /// Recorded parts, if parts are recorded.
    recorded: Option<Recorded>,
}

/// What of a recipe changes a step's numbers beside its input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub label_smoothing: f64,
    pub residual_stream: Precision,
}

impl Numbers {
    pub(super) fn of(config: &PretrainConfig) -> Self {
        Self {
            label_smoothing: config.label_smoothing,
            residual_stream: config.residual_stream,
        }
    }
}

/// Returns whether the kernels support the model: heads of 16 to 128 numbers, a decoder, and groups of equal sizes.
pub(crate) fn supports(vit: &VitConfig, target: TargetSpec) -> bool {
    let p = vit.preset;
    let heads = [p.width / p.heads, p.decoder_width / p.decoder_heads];
    let fits = |size: &usize| size.is_multiple_of(16) && (16..=128).contains(size);
    let equal = match target {
        TargetSpec::Codes { groups } => groups.sizes().windows(2).all(|two| two[0] == two[1]),
        _ => true,
    };
    heads.iter().all(fits) && p.decoder_depth > 0 && equal
}

impl<'a> Resident<'a> {
    /// Copies `params` to the device.
    pub(super) fn new(
        device: &Device,
        vit: &'a VitConfig,
        params: &ParamStore,
        with: Numbers,
    ) -> Result<Self> {
        Ok(Self {
            weights: Weights::new(device, params)?,
            report: device.put(&[0.0_f32])?,
            device: device.clone(),
            vit,
            label_smoothing: with.label_smoothing as f32,
            stream: match with.residual_stream {
                Precision::F32 => Float::F32,
                Precision::Bf16 => Float::Bf16,
            },
            shares: Vec::new(),
            recorded: None,
        })
    }

    /// Records parts when they are first computed, and starts later ones of the same shape as recorded. Numbers stay the same. It takes memory
    /// for the input of one more part.
    #[must_use]
    pub(super) fn recording(mut self, records: bool) -> Self {
        self.recorded = records.then(Recorded::default);
        self
    }

    /// Begins a step of `parts` parts.
    pub(super) fn begin(&mut self, parts: usize) -> Result<()> {
        self.shares.clear();
        let len = CHUNK as usize + STRIDE * parts;
        if self.report.len() != len {
            self.report = self.device.put(&vec![0.0_f32; len])?;
            self.recorded.as_mut().map(Recorded::clear);
        }
        Ok(())
    }

    /// Starts to copy the input of a part to the device. It needs no parameters.
    pub(super) fn prepare(&self, shards: Vec<Masked>) -> Result<Ready> {
        let masks: Vec<_> = shards.iter().flat_map(|shard| &shard.masks).collect();
        let (images, patches) = (masks.len(), self.vit.num_patches());
        let places = Places::of(&masks, patches);
        let share: f64 = shards.iter().map(|shard| shard.share).sum();
        let (ids, values) = self.targets(&shards, &places)?;
        let with = (&ids[..], share as f32);
        let lists = Lists::new(&self.device, &places, [images, patches], with)?;
        let side = self.vit.image_size;
        let pixels: Vec<Tensor> = shards.into_iter().map(|shard| shard.images).collect();
        Ok(Ready {
            images,
            pixels: self.upload(pixels, 3 * side * side)?,
            values,
            lists,
            share,
        })
    }

    /// Computes the loss and the gradient of the next part and adds them to those of the earlier parts.
    pub(super) fn part(&mut self, ready: Ready) -> Result<()> {
        let (place, share) = (self.shares.len(), ready.share);
        match self.recorded.take() {
            None => self.compute(&self.device, place, ready)?,
            Some(mut recorded) => {
                let compute = |device: &Device, ready| self.compute(device, place, ready);
                let started = recorded.start(&self.device, (place, ready), compute);
                self.recorded = Some(recorded);
                started?;
            }
        }
        self.shares.push(share);
        Ok(())
    }

    /// Starts the operations of the part at `place` of its step on `device`.
    fn compute(&self, device: &Device, place: usize, ready: Ready) -> Result<()> {
        let at = CHUNK as usize + STRIDE * place;
        let input = Input {
            images: ready.images,
            values: ready.values,
            lists: &ready.lists,
            loss: self.report.part(at..at + 1),
            add: place > 0,
        };
        let model = Model {
            device,
            vit: self.vit,
            weights: &self.weights,
            label_smoothing: self.label_smoothing,
            stream: self.stream,
        };
        model.part(&input, ready.pixels)
    }

    /// Copies tensors of `numbers` numbers per image to the device, one after another, and frees each after its copy.
    fn upload(&self, tensors: Vec<Tensor>, numbers: usize) -> Result<Memory> {
        let len = |tensor: &Tensor| tensor.elem_count();
        let all = self
            .device
            .room(Dtype::F32, tensors.iter().map(len).sum())?;
        let mut at = 0;
        for tensor in tensors {
            if len(&tensor) != tensor.dim(0)? * numbers {
                return Err(Error::Shape {
                    what: "images or values of a shard",
                    expected: format!("{numbers} numbers per image"),
                    found: format!("{:?}", tensor.dims()),
                });
            }
            let part = all.part(at..at + len(&tensor));
            self.device.write_tensor(&part, &tensor)?;
            at += len(&tensor);
        }
        Ok(all)
    }

    /// Returns the ids of the masked patches, or copies the values of all patches to the device.
    fn targets(&self, shards: &[Masked], places: &Places) -> Result<(Vec<u32>, Option<Memory>)> {
        let each: Vec<&Targets> = shards.iter().map(|shard| &shard.targets).collect();
        let values = each.iter().filter_map(|targets| match targets {
            Targets::Values(values) => Some(values.clone()),
            _ => None,
        });
        let values: Vec<Tensor> = values.collect();
        let head = self.weights.value("decoder_pred.bias")?.len();
        if values.len() == each.len() {
            let numbers = self.vit.num_patches() * head;
            let values = self.upload(values, numbers)?;
            return Ok((Vec::new(), Some(values)));
        }
        let (ids, groups) = match Targets::cat(&each)? {
            Targets::Ids(ids) => (ids, 1),
            Targets::Codes(codes, groups) => (codes, groups.count()),
            Targets::Values(_) => {
                return Err(Error::Data("shards with several kinds of targets".into()));
            }
        };
        let ids: Vec<u32> = ids.flatten_all()?.to_vec1()?;
        let masked = masked(&places.removed, &ids, groups);
        // The kernels do not check ids.
        let classes = head / groups;
        if let Some(id) = masked.iter().find(|id| **id as usize >= classes) {
            return Err(Error::Data(format!(
                "found the id {id}, expected one of 0..{classes}"
            )));
        }
        Ok((masked, None))
    }

    /// Ends a step: returns the batch's mean loss, or NaN if a number of the gradient is not finite.
    pub(super) fn loss(&mut self) -> Result<f64> {
        let gradient = &self.weights.gradient;
        let dim = CHUNK as usize;
        let launches = column_sums(Float::F32, gradient.len() / dim, dim, "sums");
        let launches = launches.map_err(candle_core::Error::wrap)?;
        let sums = self.report.part(0..dim);
        let given = [("x", gradient), ("sums", &sums)];
        let [_] = self.device.run_all(&launches, &given, ["partial"])?;
        let report = self.device.read::<f32>(&self.report)?;
        // A number that is not finite spoils the sum of its column.
        if report[..dim].iter().any(|sum| !sum.is_finite()) {
            return Ok(f64::NAN);
        }
        let losses = report[dim..].iter().step_by(STRIDE).zip(&self.shares);
        Ok(losses.map(|(loss, share)| f64::from(*loss) * share).sum())
    }

    /// Updates the parameters with the gradient of the last step.
    pub(super) fn update(&self, steps: &Steps) -> Result<()> {
        self.weights.update(steps)
    }
}

/// Returns loss and gradient of a step with these parts.
#[cfg(test)]
pub(crate) fn gradients(
    device: &Device,
    (vit, params): (&VitConfig, &ParamStore),
    with: Numbers,
    parts: Vec<Masked>,
) -> Result<(f64, Vec<Vec<f32>>)> {
    let mut resident = Resident::new(device, vit, params, with)?;
    resident.begin(parts.len())?;
    parts
        .into_iter()
        .try_for_each(|part| resident.part(resident.prepare(vec![part])?))?;
    Ok((resident.loss()?, resident.weights.gradients()?))
}
