//! Opens the GPU of the models' tensors: one stream, no event tracking, a memory pool that keeps its memory, and waits that block.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute as Attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result};

use super::gpu::{GpuError, Result, describe, driver};
use crate::device::defaults::keeps;

/// Opens the first GPU for tensors.
///
/// All tensors use one explicit stream. With the default stream, every thread has its own, and Candle does not order them. Events are
/// not tracked: launchers with another stream wait before they pass memory on.
///
/// # Errors
/// [`GpuError::None`] if there is no GPU, and [`GpuError::Driver`].
pub fn tensors() -> Result<Device> {
    // Candle panics without the driver's library, so this checks for a GPU first.
    describe()?;
    let opened = match keeps("stream") {
        true => Device::new_cuda(0),
        false => Device::new_cuda_with_stream(0),
    };
    let device = opened.map_err(|error| GpuError::None(error.to_string()))?;
    let cuda = device.as_cuda_device();
    let cuda = cuda.map_err(|error| GpuError::None(error.to_string()))?;
    let context = cuda.cuda_stream().context().clone();
    if !keeps("waits") {
        let set = context.set_blocking_synchronize();
        set.map_err(driver(
            "setting waits that block the thread (TESSERA_GPU_DEFAULTS=waits leaves it out)",
        ))?;
    }
    if !keeps("pool") {
        keep_memory(&context).map_err(driver(
            "setting the memory pool's threshold (TESSERA_GPU_DEFAULTS=pool leaves it out)",
        ))?;
    }
    if !keeps("events") {
        #[expect(unsafe_code, reason = "the streams are ordered explicitly")]
        // SAFETY: tensors use one stream. `Beside` frees memory on the stream that used it, and waits before a tensor takes it over.
        unsafe {
            cuda.disable_event_tracking();
        }
    }
    Ok(device)
}

/// Makes the pool keep freed memory: with the default threshold of 0 it returns all free memory to the system at every wait. It does not give
/// memory to a stream that another one has not finished with: loaders would wait for training.
#[expect(unsafe_code, reason = "calls the driver")]
fn keep_memory(context: &Arc<CudaContext>) -> std::result::Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let value: *mut c_void = (&raw mut threshold).cast();
    // SAFETY: the device exists, and the attributes are a `u64` and an `int`.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, value)?;
        let mut waits = 0_i32;
        let attribute = Attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut waits).cast())
    }
}

/// Returns the bytes that can still be allocated: free memory, and memory that the pool holds unused.
///
/// # Errors
/// Errors of the driver.
#[expect(unsafe_code, reason = "calls the driver")]
pub(super) fn free_bytes(context: &Arc<CudaContext>) -> std::result::Result<usize, DriverError> {
    context.bind_to_thread()?;
    let (free, _) = result::mem_get_info()?;
    if !context.has_async_alloc() {
        return Ok(free);
    }
    let read = |attribute| -> std::result::Result<u64, DriverError> {
        let mut bytes = 0_u64;
        let value: *mut c_void = (&raw mut bytes).cast();
        // SAFETY: the device exists, and both attributes are `u64`.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device())?;
            result::mem_pool::get_attribute(pool, attribute, value)?;
        }
        Ok(bytes)
    };
    let reserved = read(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = read(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    let unused = usize::try_from(reserved.saturating_sub(used)).unwrap_or(usize::MAX);
    Ok(free.saturating_add(unused))
}
