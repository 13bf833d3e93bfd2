//! Pinned memory for copies to a GPU, reused: allocating it takes milliseconds and stops the GPU.

use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};

/// Buffers grow in steps of this many bytes, so that few are replaced.
const STEP: usize = 1 << 20;

/// A buffer and the end of the last copy from it.
struct Buffer {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The context keeps an error and reports it in the next driver call.
        let _ = self.copied.synchronize();
    }
}

/// The buffers of a stream: as many as copies were in progress at the same time.
#[derive(Default)]
pub(super) struct Staging(Mutex<Vec<Buffer>>);

impl Staging {
    /// Starts to copy `bytes` bytes, which `fill` writes, to the address `to` on `stream`, whose context is bound to this thread.
    ///
    /// # Errors
    /// If the system cannot provide the memory; errors of the driver.
    ///
    /// # Safety
    /// `bytes` bytes must be allocated at `to`.
    #[expect(unsafe_code, reason = "driver calls with addresses")]
    pub(super) unsafe fn upload(
        &self,
        stream: &CudaStream,
        (to, bytes): (u64, usize),
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), DriverError> {
        let mut memory = match self.idle(bytes)? {
            Some(memory) => memory,
            None => {
                let room = (bytes + bytes / 4).next_multiple_of(STEP);
                // The memory is not write-combined, because filling it need not write every byte in order.
                // SAFETY: `fill` writes the bytes before they are copied.
                let memory = unsafe { stream.context().alloc_pinned_with_flags::<u8>(room, 0) }?;
                Buffer {
                    memory,
                    copied: stream.record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?,
                }
            }
        };
        let filled = &mut memory.memory.as_mut_slice()?[..bytes];
        fill(filled);
        // SAFETY: the caller's contract. The buffer is neither written nor freed before `copied`, or before the wait below.
        let started = unsafe { result::memcpy_htod_async(to, filled, stream.cu_stream()) };
        let recorded = started.and_then(|()| memory.copied.record(stream));
        if recorded.is_err() {
            let _ = stream.synchronize();
        }
        self.buffers().push(memory);
        recorded
    }

    /// Takes a buffer of at least `bytes` bytes that no copy reads, and drops one that is too small.
    ///
    /// # Errors
    /// Those of earlier copies and launches: otherwise no buffer would ever be idle again.
    fn idle(&self, bytes: usize) -> Result<Option<Buffer>, DriverError> {
        let mut buffers = self.buffers();
        let mut small = None;
        for at in 0..buffers.len() {
            if !buffers[at].copied.try_is_complete()? {
                continue;
            }
            if buffers[at].memory.len() >= bytes {
                return Ok(Some(buffers.swap_remove(at)));
            }
            small = small.or(Some(at));
        }
        let small = small.map(|at| buffers.swap_remove(at));
        drop(buffers);
        drop(small);
        Ok(None)
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Vec<Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
