//! Where a model computes and in which type its products are.
//!
//! Everything that trains or evaluates goes by its parameters' [`Compute`]: on the CPU in f32 a block is one operation and shards
//! run side by side; elsewhere, and in bf16, operations are single ones on tensors that stay where the parameters are.

use candle_core::{DType, Device};

use crate::cost::{self, Task};
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::vit::config::VitConfig;

/// A device, and how it is used.
#[derive(Clone, Debug)]
pub struct Compute {
    device: Device,
    precision: Precision,
    composed: bool,
    /// Bytes that a step may fill; `None` where shards run side by side.
    memory: Option<usize>,
    chip: Option<String>,
}

impl Default for Compute {
    /// The CPU in f32.
    fn default() -> Self {
        Self::cpu(Precision::F32)
    }
}

impl Compute {
    /// The CPU. bf16 is for checking: it is computed in f32 and rounded.
    pub fn cpu(precision: Precision) -> Self {
        Self {
            device: Device::Cpu,
            precision,
            composed: false,
            memory: None,
            chip: None,
        }
    }

    /// The first GPU.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none, with the reason.
    pub fn cuda(precision: Precision) -> Result<Self> {
        // Candle's own way to a device panics without the driver's library, so it is asked first.
        let chip = tessera_kernels::device::gpu().map_err(Error::Config)?;
        Ok(Self {
            device: Device::new_cuda(0)?,
            precision,
            composed: true,
            memory: Some(tessera_kernels::device::memory().map_err(Error::Config)?),
            chip: Some(chip),
        })
    }

    /// Out of single operations on tensors, as on a GPU, also where one operation could do a block.
    #[must_use]
    pub fn composed(self) -> Self {
        Self {
            composed: true,
            ..self
        }
    }

    /// One part of a batch after the other, as large as `bytes` allow, as on a GPU.
    #[must_use]
    pub fn within(self, bytes: usize) -> Self {
        Self {
            composed: true,
            memory: Some(bytes),
            ..self
        }
    }

    /// The same in f32.
    #[must_use]
    pub fn in_f32(&self) -> Self {
        Self {
            precision: Precision::F32,
            ..self.clone()
        }
    }

    /// Candle's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same, as Candle has it.
    pub fn dtype(&self) -> DType {
        match self.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
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

    /// Whether blocks are single operations, and gradients and moments tensors beside the parameters.
    pub fn is_composed(&self) -> bool {
        self.composed || self.precision != Precision::F32 || !self.device.is_cpu()
    }

    /// Images of a step that are computed at once where one part of a batch comes after the other, by the memory there is; `None` where
    /// shards run side by side, which are cut by the model's shape alone.
    pub fn images_at_once(&self, vit: &VitConfig, task: Task) -> Option<usize> {
        let memory = self.memory?;
        let held = cost::device_bytes(vit, task, self.precision);
        // A fifth stays free: the allocator's pieces, cuBLAS's workspace, what others hold.
        let room = (memory / 5 * 4).saturating_sub(held.model);
        Some((room / held.image.max(1)).max(1))
    }
}
