//! Runs the same tests on a GPU if the program has CUDA and `TESSERA_GPU` is set. They fail if there is no GPU.

use super::host::Buffers;
use crate::device::launch::Launch;

/// Returns `None`: the program has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn call(_: &Launch, _: &mut Buffers) -> Option<()> {
    None
}

/// Launches with copies of the buffers, including their guards.
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "launches a kernel")]
pub fn call(launch: &Launch, buffers: &mut Buffers) -> Option<()> {
    use crate::device::cuda::gpu::Gpu;
    use candle_core::cuda_backend::cudarc::driver::DevicePtr as _;
    use std::collections::HashMap;
    use std::sync::OnceLock;

    static GPU: OnceLock<Gpu> = OnceLock::new();
    let gpu = GPU.get_or_init(|| Gpu::open().unwrap_or_else(|error| panic!("{error}")));
    let held = buffers.iter();
    let held = held.map(|(name, buffer)| (*name, gpu.upload(&buffer.bytes()).unwrap()));
    let held: HashMap<_, _> = held.collect();
    let at = |name| held[name].device_ptr(gpu.stream()).0 + 16 * super::host::GUARD as u64;
    // SAFETY: every buffer has the declared length, lies between guards, and outlives the downloads.
    unsafe { gpu.launch(launch, |buffer| at(buffer.name)) }.unwrap();
    for (name, bytes) in &held {
        let bytes = gpu
            .download(bytes)
            .unwrap_or_else(|error| panic!("{launch}: {error}"));
        buffers.get_mut(name)?.set_bytes(&bytes);
    }
    Some(())
}
