//! The training loop with a model on a device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use tessera_kernels::device::defaults;
use tessera_kernels::device::launcher::Device;

use super::memory::{Fits, Shape, images_at_once, recorded_fit};
use super::model::{Numbers, Resident};
use super::ready::Ready;
use crate::compute::Division;
use crate::error::{Error, Result};
use crate::feed::{Batches, Feed, feed};
use crate::gradients::Gradient;
use crate::objective::{Objective, Settings, runs};
use crate::optim::{MOMENTS, Optimizer, Slot, adamw_steps};
use crate::ordered::in_order;
use crate::params::{Named, ParamStore};
use crate::pretrain::config::{BETAS, PretrainConfig, slots};
use crate::pretrain::masks::Masked;
use crate::resume::EpochRecord;
use crate::targets::TargetSpec;
use crate::train::{Learner, RunContext, Training};
use crate::vit::VitConfig;

/// Pretrains a model on a device with MAE's AdamW. Its variables get the final values.
pub(crate) fn pretrain<O: Objective<Prepared = Masked>>(
    (device, memory): (&Device, usize),
    target: TargetSpec,
    model: (&VitConfig, &ParamStore),
    objective: &O,
    config: &PretrainConfig,
    settings: &Settings,
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let (vit, params) = model;
    if config.gradient_checkpointing {
        (cx.note)(
            "  gradient_checkpointing has no effect on this device: a batch is split into parts that fit its memory",
        );
    }
    let batches = Batches::new(settings);
    let step = batches.size().next_multiple_of(vit.shard());
    let fits = Fits {
        device,
        memory,
        most: step,
        least: vit.shard().min(step),
    };
    let shape = Shape {
        mask_ratio: config.mask_ratio,
        residual_stream: config.residual_stream,
    };
    let images = images_at_once(&fits, model, target, shape)?;
    let division = Division::within(vit, images);
    let wanted = defaults::records();
    let records = wanted && recorded_fit(&fits, model, target, shape, images)?;
    if wanted {
        (cx.note)(match records {
            true => "  starts recorded steps (TESSERA_CUDA_GRAPH)",
            false => {
                "  starts every launch alone: recorded steps (TESSERA_CUDA_GRAPH) do not fit into the GPU's memory"
            }
        });
    }
    let resident = Resident::new(device, vit, params, Numbers::of(config))?.recording(records);
    let resident = Mutex::new(resident);
    let mut optimizer = DeviceAdamW {
        resident: &resident,
        slots: slots(params, config),
        steps: 0,
    };
    let training = Training::begin(params, &mut optimizer, settings, &batches, cx)?;
    let steps = training.steps();
    let end = steps.end;
    feed(
        objective,
        &batches,
        steps,
        &runs(batches.size(), division.shard),
        (cx.workers, true),
        |feed| {
            let mut learner = Parts {
                resident: &resident,
                feed,
                together: division.together.unwrap_or(1),
                end,
                next: None,
            };
            training.run(&mut optimizer, &mut learner)
        },
    )
}

fn lock<'m, 'a>(resident: &'m Mutex<Resident<'a>>) -> MutexGuard<'m, Resident<'a>> {
    resident.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Computes steps in parts of `together` shards.
struct Parts<'a, 'r> {
    resident: &'a Mutex<Resident<'r>>,
    feed: &'a Feed<'a, Masked>,
    together: usize,
    /// Steps of the whole run.
    end: usize,
    /// Input of the next part, prepared while the device computes.
    next: Option<Ready>,
}

impl Parts<'_, '_> {
    /// Takes the shards from `first` on of step `now` and starts to copy them to the device.
    fn prepare(&self, resident: &Resident<'_>, (now, first): (usize, usize)) -> Result<Ready> {
        let count = self.together.min(self.feed.shards() - first);
        let mut part = Vec::with_capacity(count);
        let put = |_, prepared| {
            part.push(prepared);
            Ok(())
        };
        let take = |index| self.feed.take(now, first + index);
        in_order(count, rayon::current_num_threads(), take, put)?;
        resident.prepare(part)
    }

    /// Returns the step and the first shard of the next part; `None` at the end of the run.
    fn following(&self, (now, first): (usize, usize)) -> Option<(usize, usize)> {
        match first + self.together < self.feed.shards() {
            true => Some((now, first + self.together)),
            false => Some((now + 1, 0)).filter(|(step, _)| *step < self.end),
        }
    }
}

impl Learner for Parts<'_, '_> {
    fn loss(&mut self, now: usize) -> Result<f64> {
        let shards = self.feed.shards();
        let mut resident = lock(self.resident);
        resident.begin(shards.div_ceil(self.together))?;
        for first in (0..shards).step_by(self.together) {
            let ready = match self.next.take() {
                Some(ready) => ready,
                None => self.prepare(&resident, (now, first))?,
            };
            resident.part(ready)?;
            // The device computes meanwhile.
            let following = self.following((now, first));
            let prepare = |at| self.prepare(&resident, at);
            self.next = following.map(prepare).transpose()?;
        }
        resident.loss()
    }

    fn gradient(&self) -> &Gradient {
        &Gradient::Resident
    }
}

/// AdamW whose values and moments are on a device.
struct DeviceAdamW<'a, 'r> {
    resident: &'a Mutex<Resident<'r>>,
    slots: Vec<Slot>,
    steps: u64,
}

impl Optimizer for DeviceAdamW<'_, '_> {
    fn step(&mut self, _: &Gradient, lr: f64) -> Result<()> {
        let groups = self.slots.iter().map(|slot| slot.group);
        let steps = adamw_steps(groups, BETAS, self.steps + 1, lr);
        lock(self.resident).update(&steps)?;
        self.steps += 1;
        Ok(())
    }

    fn kinds(&self) -> &'static [&'static str] {
        MOMENTS
    }

    fn settle(&self) -> Result<()> {
        let values = lock(self.resident).weights.rows(0)?;
        self.slots
            .iter()
            .zip(values)
            .try_for_each(|(slot, values)| {
                let (shape, device) = (slot.var.shape(), slot.var.device());
                Ok(slot.var.set(&Tensor::from_vec(values, shape, device)?)?)
            })
    }

    fn state(&self) -> Result<(Vec<Named>, u64)> {
        let resident = lock(self.resident);
        let mut all = Vec::with_capacity(MOMENTS.len() * self.slots.len());
        for (kind, which) in MOMENTS.iter().zip(1..) {
            for (slot, values) in self.slots.iter().zip(resident.weights.rows(which)?) {
                let name = format!("{kind}.{}", slot.name);
                all.push((name, slot.var.dims().to_vec(), values));
            }
        }
        Ok((all, self.steps))
    }

    fn restore(
        &mut self,
        take: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
        steps: u64,
    ) -> Result<()> {
        let resident = lock(self.resident);
        let values = self.slots.iter().map(|slot| {
            let values = slot.var.as_detached_tensor().flatten_all()?;
            Ok(values.to_vec1()?)
        });
        let values: Vec<Vec<f32>> = values.collect::<Result<_>>()?;
        resident.weights.set_values(&values)?;
        for (kind, which) in MOMENTS.iter().zip(1..) {
            let moments = self.slots.iter().map(|slot| {
                let name = format!("{kind}.{}", slot.name);
                let values = take(&name).filter(|v| v.len() == slot.var.elem_count());
                let lacking = || Error::Config(format!("the saved optimiser state lacks `{name}`"));
                values.ok_or_else(lacking)
            });
            let moments: Vec<Vec<f32>> = moments.collect::<Result<_>>()?;
            resident.weights.set_moment(which, &moments)?;
        }
        self.steps = steps;
        Ok(())
    }
}
