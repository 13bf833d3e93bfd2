//! The interface of a device, whose implementations trust addresses.

use std::any::Any;
use std::sync::Arc;

use candle_core::Tensor;

use crate::device::launch::{Launch, LaunchError};
use crate::device::matmul::{Matmul, Operands};
use crate::device::memory::{Held, bytes_of};

/// Reason why a device operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The launch is impossible.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A buffer passed to a launch does not match it.
    #[error("{launch}: {buffer}: {message}")]
    Buffer {
        /// The launch.
        launch: String,
        /// Name of its buffer.
        buffer: &'static str,
        /// The expected and found properties.
        message: String,
    },
    /// The device reported an error.
    #[error("{device}: {message}")]
    Refused {
        /// Name of the device.
        device: String,
        /// The reason and the remedy.
        message: String,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// A point in the order of a device's operations, of [`Launcher::mark`].
pub type Mark = Box<dyn Any + Send>;

/// An operation and the addresses of its memory.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A launch and the addresses of its buffers, in order.
    Launch(Launch, Vec<u64>),
    /// A matrix product.
    Product(Matmul, Operands<u64>),
    /// A copy on the device.
    Copy {
        /// The destination.
        to: u64,
        /// The source.
        from: u64,
        /// Number of bytes.
        bytes: usize,
    },
}

impl Operation {
    /// Converts every address.
    #[must_use]
    pub fn moved(self, place: impl Fn(u64) -> u64) -> Self {
        match self {
            Self::Launch(launch, at) => Self::Launch(launch, at.into_iter().map(place).collect()),
            Self::Product(matmul, at) => Self::Product(matmul, at.map(place)),
            Self::Copy { to, from, bytes } => Self::Copy {
                to: place(to),
                from: place(from),
                bytes,
            },
        }
    }

    /// Starts the operation without waiting for it.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Safety
    /// As for [`Launcher::launch`], [`Launcher::multiply`] and [`Launcher::copy`].
    #[expect(unsafe_code, reason = "passes addresses")]
    pub unsafe fn start<L: Launcher + ?Sized>(&self, launcher: &L) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Self::Launch(launch, at) => launcher.launch(launch, at),
                Self::Product(matmul, at) => launcher.multiply(matmul, at),
                Self::Copy { to, from, bytes } => launcher.copy(*to, *from, *bytes),
            }
        }
    }
}

/// Operations that a device starts together.
pub trait Combined: Send {
    /// Starts all operations, after those of earlier calls, without waiting for them.
    ///
    /// # Errors
    /// Errors of the device.
    fn start(&self) -> Result<()>;
}

/// The interface of a device. Operations run in the order of the calls, from any thread.
///
/// Implementations trust addresses: only [`Device`](super::Device) calls them, after checking.
#[expect(unsafe_code, reason = "the caller vouches for addresses")]
pub trait Launcher: Send + Sync {
    /// Returns the name, for messages and records.
    fn name(&self) -> String;
    /// Allocates `bytes` bytes with undefined contents.
    ///
    /// # Errors
    /// If memory is exhausted.
    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>>;
    /// Returns the approximate number of bytes that can still be allocated.
    ///
    /// # Errors
    /// If the device cannot report it.
    fn free_bytes(&self) -> Result<usize>;
    /// Copies `bytes` to the address `to`. The slice may be reused when the call returns.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Safety
    /// `bytes.len()` bytes must be allocated at `to`.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Waits for earlier launches, then copies from the address `from` into `bytes`.
    ///
    /// # Errors
    /// Errors of the device, including those of earlier launches.
    ///
    /// # Safety
    /// `bytes.len()` bytes must be allocated at `from`.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Copies `bytes` bytes from one address to another. The ranges must not overlap.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Safety
    /// `bytes` bytes must be allocated at both addresses.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;
    /// Waits until all earlier operations have finished.
    ///
    /// # Errors
    /// Errors of the device, including those of earlier launches.
    fn wait(&self) -> Result<()>;
    /// Copies `bytes` bytes, which `fill` writes, to the address `to`. A GPU gives `fill` pinned memory, copies without waiting for earlier
    /// operations, and reuses the memory for later calls.
    ///
    /// # Errors
    /// If the system cannot provide the memory; errors of the device.
    ///
    /// # Safety
    /// `bytes` bytes must be allocated at `to`.
    unsafe fn upload(&self, to: u64, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        let mut memory = vec![0; bytes];
        fill(&mut memory);
        // SAFETY: the caller's contract.
        unsafe { self.write(to, &memory) }
    }
    /// Converts f32 numbers into a tensor on the models' device. The numbers must be computed and `held` must be the only reference.
    ///
    /// # Errors
    /// If another reference exists, or the device refuses.
    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor>;
    /// Starts a launch without waiting for it.
    ///
    /// # Errors
    /// If the launch exceeds the device's limits, does not compile, or is refused.
    ///
    /// # Safety
    /// `addresses` must be those of the launch's buffers, in order, each with the declared number of elements. A written buffer
    /// must not overlap any other.
    unsafe fn launch(&self, launch: &Launch, addresses: &[u64]) -> Result<()>;
    /// Copies an f32 tensor to the address `to`. On a GPU, it must be contiguous and is read in the order of the models' stream.
    ///
    /// # Errors
    /// If the tensor has another type or is on another device; errors of the device.
    ///
    /// # Safety
    /// Memory for the tensor's numbers must be allocated at `to`.
    unsafe fn write_tensor(&self, to: u64, tensor: &Tensor) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { write_numbers(self, to, tensor) }
    }
    /// Starts a matrix product without waiting for it.
    ///
    /// # Errors
    /// If the device refuses.
    ///
    /// # Safety
    /// `at` must be the addresses of operands with the types and lengths of [`Matmul::lengths`]. `out` and `sums` must not overlap any other.
    unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> Result<()>;
    /// Is told before an operation which memory it uses. A device that records operations keeps it.
    fn keep(&self, _: &Arc<dyn Held>) {}
    /// Combines operations, which were started before, into one that starts all of them in order; `None` if the device cannot.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Safety
    /// The contract of every operation must hold whenever the result is started, and until the operations have finished.
    unsafe fn combine(&self, _: &[Operation]) -> Result<Option<Box<dyn Combined>>> {
        Ok(None)
    }
    /// Returns how many products had a bias that another launch added, because the library has no kernel that does.
    fn without_bias(&self) -> u64 {
        0
    }
    /// Marks the present point in the order of operations, to measure time; `None` if the device has no clock.
    ///
    /// # Errors
    /// Errors of the device.
    fn mark(&self) -> Result<Option<Mark>> {
        Ok(None)
    }
    /// Waits for both marks and returns the seconds between them.
    ///
    /// # Errors
    /// If the marks are not those of this device; errors of the device.
    fn seconds_between(&self, _: &Mark, _: &Mark) -> Result<f64> {
        Err(DeviceError::Refused {
            device: self.name(),
            message: "it has no clock".into(),
        })
    }
}

/// Copies a tensor on the CPU to the address `to`.
///
/// # Errors
/// As for [`Launcher::write_tensor`].
///
/// # Safety
/// As for [`Launcher::write_tensor`].
#[expect(unsafe_code, reason = "passes an address")]
pub unsafe fn write_numbers<L: Launcher + ?Sized>(
    launcher: &L,
    to: u64,
    tensor: &Tensor,
) -> Result<()> {
    let refuse = |error: candle_core::Error| DeviceError::Refused {
        device: launcher.name(),
        message: error.to_string(),
    };
    let tensor = tensor.contiguous().map_err(refuse)?;
    let numbers = crate::ops::values::read(&tensor).map_err(refuse)?;
    // SAFETY: the caller's contract.
    unsafe { launcher.write(to, bytes_of(&numbers)) }
}
