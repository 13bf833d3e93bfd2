//! The device and the number type of a model's computation.
//!
//! All training and evaluation follows the [`Compute`] of the parameters. On the CPU, a block is one fused operation and shards run in
//! parallel; in bf16, it rounds the numbers of products, and all else is f32. On a GPU, pretraining in bf16 runs without a graph
//! (`pretrain/resident`); otherwise each block is a graph of single tensor operations on the parameters' device.

use candle_core::{DType, Device};
use tessera_kernels::device::counting::Counting;
use tessera_kernels::device::launcher;

use crate::cost::{self, Task};
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::vit::config::VitConfig;

/// Products in bf16 on a CPU without instructions for them: numbers rounded to bf16 are multiplied in f32.
pub const EMULATED: &str = "bf16-emulated";

/// A device, the number type, and the strategy of computation.
#[derive(Clone, Debug)]
pub struct Compute {
    device: Device,
    precision: Precision,
    composed: bool,
    /// Memory for a step in bytes; `None` if shards run in parallel.
    memory: Option<usize>,
    /// The batch whose shards all batches have, for measurements.
    divided_as: Option<usize>,
    chip: Option<String>,
    /// Runs pretraining in bf16 without a graph.
    resident: Option<Resident>,
}

/// A device on which pretraining keeps its parameters.
#[derive(Clone, Debug)]
struct Resident {
    device: launcher::Device,
    /// Memory in bytes.
    memory: usize,
}

/// Images that a loader prepares together for a device: the larger, the fewer and longer copies and launches.
pub const LOADED: usize = 64;

/// Some libraries of matrix products fail above 2^31 numbers.
pub(crate) const MOST_NUMBERS: usize = i32::MAX as usize;

/// How a batch is divided into shards, which are prepared together, and parts, which are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Images of a shard.
    pub shard: usize,
    /// Shards of a part on a device; `None` if shards are computed in parallel.
    pub together: Option<usize>,
}

impl Division {
    /// Divides for a device on which `most` images fit into a part: into equal shards of at most [`LOADED`] images, and not less than on a
    /// CPU.
    pub(crate) fn within(vit: &VitConfig, most: usize) -> Self {
        let most = most.clamp(1, 1 << 20);
        let shard = most / most.div_ceil(LOADED);
        // Fine-tuning mixes pairs of images.
        let shard = (shard / 2 * 2).max(vit.shard());
        Self {
            shard,
            together: Some((most / shard).max(1)),
        }
    }
}

impl Default for Compute {
    /// The CPU in f32.
    fn default() -> Self {
        Self::cpu(Precision::F32)
    }
}

impl Compute {
    /// The CPU.
    pub fn cpu(precision: Precision) -> Self {
        Self {
            device: Device::Cpu,
            precision,
            composed: false,
            memory: None,
            divided_as: None,
            chip: None,
            resident: None,
        }
    }

    /// The first GPU.
    ///
    /// # Errors
    /// [`Error::Config`] with the reason if no GPU is available.
    pub fn cuda(precision: Precision) -> Result<Self> {
        let chip = tessera_kernels::device::gpu().map_err(Error::Config)?;
        let device = tessera_kernels::device::tensors().map_err(Error::Config)?;
        let memory = tessera_kernels::device::memory().map_err(Error::Config)?;
        let resident = match precision {
            Precision::F32 => None,
            Precision::Bf16 => tessera_kernels::device::resident(&device).map_err(Error::Config)?,
        };
        Ok(Self {
            device,
            precision,
            composed: true,
            memory: Some(memory),
            divided_as: None,
            chip: Some(chip),
            resident: resident.map(|device| Resident { device, memory }),
        })
    }

    /// Pretrains in bf16 on `device`, which has `memory` bytes, and computes all else on the CPU.
    #[cfg(test)]
    pub(crate) fn resident_on(self, device: launcher::Device, memory: usize) -> Self {
        Self {
            precision: Precision::Bf16,
            resident: Some(Resident { device, memory }),
            ..self
        }
    }

    /// Whether pretraining in bf16 runs without a graph, which changes the order of roundings.
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// Returns the device on which pretraining in bf16 keeps its parameters, and its memory in bytes.
    pub(crate) fn resident(&self) -> Option<(&launcher::Device, usize)> {
        let resident = self.resident.as_ref()?;
        Some((&resident.device, resident.memory))
    }

    /// Counts and times the calls of pretraining without a graph from now on; `None` if it uses Candle's graph.
    pub fn count(&mut self) -> Option<Counting> {
        let resident = self.resident.as_mut()?;
        let counting = Counting::of(&resident.device);
        resident.device = counting.device();
        Some(counting)
    }

    /// Uses single tensor operations, as on a GPU, instead of fused blocks.
    #[must_use]
    pub fn composed(self) -> Self {
        Self {
            composed: true,
            ..self
        }
    }

    /// Computes a batch in sequential parts that fit into `bytes`, as on a GPU.
    #[must_use]
    pub fn within(self, bytes: usize) -> Self {
        Self {
            composed: true,
            memory: Some(bytes),
            ..self
        }
    }

    /// Returns a copy that computes in f32.
    #[must_use]
    pub fn in_f32(&self) -> Self {
        Self {
            precision: Precision::F32,
            resident: None,
            ..self.clone()
        }
    }

    /// Candle's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number type of matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The products' type in results: `f32`, `bf16`, or [`EMULATED`] on a CPU without instructions for bf16.
    pub fn products(&self, has_bf16: bool) -> &'static str {
        match self.precision == Precision::Bf16 && self.device.is_cpu() && !has_bf16 {
            true => EMULATED,
            false => self.precision.name(),
        }
    }

    /// Type of the matrices that products read.
    pub fn matrices(&self) -> DType {
        match self.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// Type of the tokens between blocks.
    pub fn tokens(&self) -> DType {
        match self.is_composed() {
            true => self.matrices(),
            false => DType::F32,
        }
    }

    /// `cpu` or `cuda`.
    pub fn kind(&self) -> &'static str {
        match self.device.is_cuda() {
            true => "cuda",
            false => "cpu",
        }
    }

    /// A GPU's name and compute capability.
    pub fn chip(&self) -> Option<&str> {
        self.chip.as_deref()
    }

    /// Whether blocks are graphs of single operations, with gradients and moments as tensors on the parameters' device.
    pub fn is_composed(&self) -> bool {
        self.composed || !self.device.is_cpu()
    }

    /// Returns how `batch` images of `task` are divided. A CPU trains on shards of the batch in parallel; what it encodes needs no division
    /// that is the same on all machines.
    pub fn division(&self, vit: &VitConfig, task: Task, batch: usize) -> Division {
        match (self.images_at_once(vit, task), task) {
            (Some(most), _) => Division::within(vit, most),
            (None, Task::Encode) => Division {
                shard: vit.shard(),
                together: None,
            },
            (None, _) => Division {
                shard: vit.shard_of(self.divided_as.unwrap_or(batch)),
                together: None,
            },
        }
    }

    /// Divides every batch on a CPU into shards as small as those of `batch` images, to measure a part of such a batch.
    #[must_use]
    pub fn divided_as(self, batch: usize) -> Self {
        Self {
            divided_as: Some(batch),
            ..self
        }
    }

    /// Returns how many images fit into memory in one part of a step; `None` if shards run in parallel, because their size depends on the
    /// model's shape alone.
    pub fn images_at_once(&self, vit: &VitConfig, task: Task) -> Option<usize> {
        let memory = self.memory?;
        let held = cost::device_bytes(vit, task, self.precision);
        // A fifth stays free for fragmentation, cuBLAS's workspace and other processes.
        let room = (memory / 5 * 4).saturating_sub(held.model);
        let most = MOST_NUMBERS / cost::most_numbers(vit, task);
        Some((room / held.image.max(1)).min(most).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vit::preset;

    /// At 224 px a shard of a CPU has 8 images.
    #[test]
    fn a_device_gets_equal_shards_of_at_most_64_images() {
        let preset = preset("S").unwrap();
        let vit = VitConfig {
            image_size: 224,
            patch_size: 16,
            preset,
        };
        for (most, shard, together) in [
            (1, 8, 1),
            (8, 8, 1),
            (50, 50, 1),
            (64, 64, 1),
            (100, 50, 2),
            (1024, 64, 16),
            (usize::MAX, 64, 1 << 14),
        ] {
            let expected = Division {
                shard,
                together: Some(together),
            };
            assert_eq!(Division::within(&vit, most), expected, "{most}");
        }
    }
}
