//! Launches on a GPU as values (`launch`), where they run (`launcher`), the GPU itself (`cuda`); and whether this program has one.

#[cfg(any(test, feature = "cuda"))]
pub mod cuda;
pub mod launch;
pub mod launcher;

use launcher::Device;

/// What a program needs to have one, for messages.
pub const BUILD: &str = "a GPU needs a program built with `--features cuda` and, to start at all, the NVIDIA driver's libcuda.so.1";

/// The GPU that is there: name and compute capability. Never panics.
///
/// # Errors
/// Why there is none, in words.
pub fn gpu() -> Result<String, String> {
    #[cfg(feature = "cuda")]
    return cuda::gpu::describe().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Memory of that GPU, bytes: all of it, so that what fits does not depend on who else is there.
///
/// # Errors
/// As [`gpu`].
pub fn memory() -> Result<usize, String> {
    #[cfg(feature = "cuda")]
    return cuda::gpu::memory().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Where launches run beside the tensors of `device`, on a stream of their own; `None` on the CPU.
///
/// # Errors
/// Why nothing can be launched there, in words.
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

/// Whether it was built with CUDA.
pub const fn has_cuda() -> bool {
    cfg!(feature = "cuda")
}
