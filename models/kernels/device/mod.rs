//! GPU launches and matrix products as values (`launch`, `matmul`), the interface that executes them (`launcher`), the GPU implementation
//! (`cuda`), one that only counts (`ledger`), one that counts the calls of another (`counting`), and recorded operations (`recording`).
//! Names of GPUs (`chip`) and the settings that a variable turns off (`defaults`) need no GPU.

pub mod chip;
pub mod counting;
#[cfg(any(test, feature = "cuda"))]
pub mod cuda;
pub mod defaults;
pub mod launch;
pub mod launcher;
pub mod ledger;
pub mod matmul;
mod memory;
pub mod recording;

use launcher::Device;

/// The requirements for using a GPU, for messages.
pub const BUILD: &str = "a GPU needs a program built with `--features cuda`, which starts only with the NVIDIA driver's libcuda.so.1";

/// Returns the GPU's name and compute capability, as [`Chip`](chip::Chip) writes them. Never panics.
///
/// # Errors
/// The reason why no GPU is available.
pub fn gpu() -> Result<String, String> {
    #[cfg(feature = "cuda")]
    return cuda::gpu::describe().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Returns the GPU's total memory in bytes, which does not depend on other processes, unlike the free memory.
///
/// # Errors
/// As for [`gpu`].
pub fn memory() -> Result<usize, String> {
    #[cfg(feature = "cuda")]
    return cuda::gpu::memory().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Opens the first GPU for tensors, with the settings of `cuda/open.rs`. Never panics.
///
/// # Errors
/// The reason why no GPU is available.
pub fn tensors() -> Result<candle_core::Device, String> {
    #[cfg(feature = "cuda")]
    return cuda::open::tensors().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Returns a launcher with its own stream on the GPU that holds `device`'s tensors; `None` on the CPU.
///
/// # Errors
/// The reason why the launcher cannot be created.
pub fn beside(device: &candle_core::Device) -> Result<Option<Device>, String> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = device {
        let beside = cuda::beside::Beside::of(device);
        let beside = beside.map_err(|error| error.to_string())?;
        return Ok(Some(Device::new(std::sync::Arc::new(beside))));
    }
    debug_assert!(device.is_cpu());
    Ok(None)
}

/// Returns a launcher on the stream of `device`'s tensors, for training without a graph. `None` on the CPU, and if the variable
/// `TESSERA_GPU_DEFAULTS` lists `graph`.
///
/// # Errors
/// The reason why the launcher cannot be created.
pub fn resident(device: &candle_core::Device) -> Result<Option<Device>, String> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = device
        && !defaults::keeps("graph")
    {
        let launcher = cuda::beside::Beside::training(device);
        let launcher = launcher.map_err(|error| error.to_string())?;
        return Ok(Some(Device::new(std::sync::Arc::new(launcher))));
    }
    debug_assert!(device.is_cpu() || device.is_cuda());
    Ok(None)
}

/// Returns whether the program was built with CUDA.
pub const fn has_cuda() -> bool {
    cfg!(feature = "cuda")
}
