//! Executes launches: memory, copies and kernels, on a GPU (`cuda/beside.rs`, feature `cuda`) or, in tests, on the host (the crate
//! `tessera-testing`). All device computations go through [`Device`], so the same code runs on both.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use super::launch::{Access, Arg, Dtype, Launch, LaunchError};
use super::matmul::{Form, Matmul, Operands};
use super::memory::bytes_of;
pub use super::memory::{Held, Memory, Number, Packing};

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

/// The interface of a device. Operations run in the order of the calls, from any thread.
///
/// Implementations trust addresses: only [`Device`] calls them, after checking.
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
pub(super) unsafe fn write_numbers<L: Launcher + ?Sized>(
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

/// A device that runs launches. Clones refer to the same device.
#[derive(Clone)]
pub struct Device(Arc<dyn Launcher>);

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Device {
    /// Creates a device that uses `launcher`.
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self(launcher)
    }

    /// Returns its launcher.
    pub(super) fn launcher(&self) -> &Arc<dyn Launcher> {
        &self.0
    }

    /// Returns the name, for messages and records.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// Returns how many products had a bias that another launch added, because the library has no kernel that does.
    pub fn without_bias(&self) -> u64 {
        self.0.without_bias()
    }

    /// Returns the approximate number of bytes that can still be allocated.
    ///
    /// # Errors
    /// If the device cannot report it.
    pub fn free_bytes(&self) -> Result<usize> {
        self.0.free_bytes()
    }

    /// Waits until all earlier operations have finished.
    ///
    /// # Errors
    /// Errors of the device, including those of earlier launches.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }

    /// Allocates `len` numbers with undefined contents.
    ///
    /// # Errors
    /// If memory is exhausted.
    pub fn room(&self, dtype: Dtype, len: usize) -> Result<Memory> {
        Ok(Memory {
            held: self.0.allocate((len * dtype.size()).max(16))?,
            dtype,
            range: 0..len,
        })
    }

    /// Copies numbers to new memory on the device.
    ///
    /// # Errors
    /// If memory is exhausted.
    pub fn put<T: Number>(&self, values: &[T]) -> Result<Memory> {
        let memory = self.room(T::DTYPE, values.len())?;
        self.write(&memory, values)?;
        Ok(memory)
    }

    /// Copies numbers into `to`.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Panics
    /// If type or count differ.
    #[expect(unsafe_code, reason = "passes an address")]
    pub fn write<T: Number>(&self, to: &Memory, values: &[T]) -> Result<()> {
        assert_eq!((to.dtype, to.len()), (T::DTYPE, values.len()));
        // SAFETY: `to` has the same length.
        unsafe { self.0.write(to.address(), bytes_of(values)) }
    }

    /// Copies an f32 tensor into `to`. On a GPU, it must be contiguous and is read in the order of the models' stream.
    ///
    /// # Errors
    /// If the tensor has another type or is on another device; errors of the device.
    ///
    /// # Panics
    /// If type or count differ.
    #[expect(unsafe_code, reason = "passes an address")]
    pub fn write_tensor(&self, to: &Memory, tensor: &Tensor) -> Result<()> {
        assert_eq!((to.dtype, to.len()), (Dtype::F32, tensor.elem_count()));
        // SAFETY: `to` has the same length.
        unsafe { self.0.write_tensor(to.address(), tensor) }
    }

    /// Copies packed lists to the device together and returns the memory of each, in order. Does not wait for earlier launches.
    ///
    /// # Errors
    /// If memory is exhausted.
    #[expect(unsafe_code, reason = "passes an address")]
    pub fn put_packed(&self, packing: &Packing<'_>) -> Result<Vec<Memory>> {
        let all = self.room(Dtype::U8, packing.len())?;
        // SAFETY: `all` has the same length.
        unsafe {
            (self.0).upload(all.address(), packing.len(), &mut |to| packing.fill(to))?;
        }
        Ok(packing.lists_in(&all))
    }

    /// Waits for pending work and converts f32 numbers into a tensor on the models' device. A GPU does this without a copy.
    ///
    /// # Errors
    /// If another reference to the memory exists, or the device refuses.
    ///
    /// # Panics
    /// If type or count differ, or if the memory is part of a larger allocation.
    pub fn tensor(&self, memory: Memory, shape: &[usize]) -> Result<Tensor> {
        assert_eq!(memory.dtype, Dtype::F32);
        assert_eq!(memory.range, 0..shape.iter().product());
        self.0.wait()?;
        self.0.tensor(memory.held, shape)
    }

    /// Waits for earlier launches and copies numbers from the device.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Panics
    /// If the type differs.
    #[expect(unsafe_code, reason = "passes an address")]
    pub fn read<T: Number>(&self, from: &Memory) -> Result<Vec<T>> {
        assert_eq!(from.dtype, T::DTYPE);
        let mut values = vec![T::default(); from.len()];
        let bytes = std::mem::size_of_val(values.as_slice());
        // SAFETY: every byte pattern is a valid number of these types, which have no padding.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), bytes) };
        // SAFETY: `from` has the same length.
        unsafe { self.0.read(from.address(), bytes) }?;
        Ok(values)
    }

    /// Copies numbers on the device.
    ///
    /// # Errors
    /// Errors of the device.
    ///
    /// # Panics
    /// If type or count differ, or if the ranges overlap.
    #[expect(unsafe_code, reason = "passes addresses")]
    pub fn copy(&self, to: &Memory, from: &Memory) -> Result<()> {
        assert_eq!((to.dtype, to.len()), (from.dtype, from.len()));
        assert!(to.is_empty() || !to.overlaps(from), "overlapping copy");
        // SAFETY: both have the same length and do not overlap.
        unsafe { self.0.copy(to.address(), from.address(), to.bytes()) }
    }

    /// Starts a launch with the buffers `given` by name, without waiting for it.
    ///
    /// # Errors
    /// If a buffer is missing, has another type or length, is not aligned to 16 bytes, or overlaps one that is written. Errors
    /// of the device.
    #[expect(unsafe_code, reason = "passes addresses")]
    pub fn run(&self, launch: &Launch, given: &[(&'static str, &Memory)]) -> Result<()> {
        let mut used: Vec<(&Memory, Access)> = Vec::new();
        for of in launch.buffers() {
            let refuse = |message: String| DeviceError::Buffer {
                launch: launch.to_string(),
                buffer: of.name,
                message,
            };
            let found = given.iter().find(|(name, _)| *name == of.name);
            let (_, memory) = found.ok_or_else(|| refuse("missing".into()))?;
            let (is, expected) = ((memory.dtype, memory.len()), (of.dtype, of.len));
            if is != expected {
                return Err(refuse(format!("found {is:?}, expected {expected:?}")));
            }
            if !memory.is_aligned() {
                return Err(refuse("does not start at a multiple of 16 bytes".into()));
            }
            let written = |access| access != Access::Read;
            let clashes = |(other, access): &(&Memory, Access)| {
                (written(*access) || written(of.access)) && other.overlaps(memory)
            };
            if used.iter().any(clashes) {
                return Err(refuse(
                    "overlaps another buffer, and one of them is written".into(),
                ));
            }
            used.push((memory, of.access));
        }
        debug_assert_eq!(
            used.len(),
            launch
                .args
                .iter()
                .filter(|a| matches!(a, Arg::Buffer(_)))
                .count()
        );
        let addresses: Vec<u64> = used.iter().map(|(memory, _)| memory.address()).collect();
        // SAFETY: checked above. Memory of another device cannot be detected, but each computation uses one device.
        unsafe { self.0.launch(launch, &addresses) }
    }

    /// Starts a matrix product without waiting for it.
    ///
    /// # Errors
    /// If an operand has another type or length, is not aligned to 256 bytes (a bias: 16), or overlaps `out`. Errors of the device.
    #[expect(unsafe_code, reason = "passes addresses")]
    pub fn multiply(&self, matmul: &Matmul, operands: Operands<&Memory>) -> Result<()> {
        let expected = matmul.lengths()?;
        let refuse = |buffer, message: String| DeviceError::Buffer {
            launch: matmul.to_string(),
            buffer,
            message,
        };
        let check = |name, memory: &Memory, expected: (Dtype, usize)| {
            let found = (memory.dtype, memory.len());
            if found != expected {
                return Err(refuse(
                    name,
                    format!("found {found:?}, expected {expected:?}"),
                ));
            }
            if !memory.is_aligned() {
                return Err(refuse(
                    name,
                    "does not start at a multiple of 16 bytes".into(),
                ));
            }
            if !["bias", "sums"].contains(&name) && !memory.starts_a_matrix() {
                let message = "does not start at a multiple of 256 bytes of its memory";
                return Err(refuse(name, message.into()));
            }
            if name != "out" && memory.overlaps(operands.out) {
                return Err(refuse(name, "overlaps the product".into()));
            }
            Ok(())
        };
        check("left", operands.left, expected.left)?;
        check("right", operands.right, expected.right)?;
        check("out", operands.out, expected.out)?;
        let optional = [
            ("bias", operands.bias, expected.bias),
            ("sums", operands.sums, expected.sums),
            ("residual", operands.residual, expected.residual),
        ];
        for (name, memory, expected) in optional {
            if let (Some(memory), Some(expected)) = (memory, expected) {
                check(name, memory, expected)?;
            }
        }
        let is_weight = matmul.form == Form::Weight;
        if operands.bias.is_some() && is_weight {
            return Err(refuse("bias", "needs another form than Weight".into()));
        }
        if operands.sums.is_some() && !is_weight {
            return Err(refuse("sums", "needs the form Weight".into()));
        }
        let mut factors = [operands.left, operands.right].into_iter();
        if (operands.sums).is_some_and(|sums| factors.any(|factor| factor.overlaps(sums))) {
            return Err(refuse("sums", "overlaps a factor".into()));
        }
        if operands.residual.is_some() && matmul.add {
            let message = "needs a product that is not added to `out`";
            return Err(refuse("residual", message.into()));
        }
        // SAFETY: checked above.
        unsafe { self.0.multiply(matmul, &operands.map(Memory::address)) }
    }

    /// Starts launches in order and passes their buffers by name. Buffers that are written but not `given` are allocated. Returns the
    /// buffers `wanted`.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    /// If no launch has a buffer of a wanted name.
    pub fn run_all<const N: usize>(
        &self,
        launches: &[Launch],
        given: &[(&'static str, &Memory)],
        wanted: [&'static str; N],
    ) -> Result<[Memory; N]> {
        let mut all: Vec<(&'static str, Memory)> = given
            .iter()
            .map(|(name, memory)| (*name, (*memory).clone()))
            .collect();
        for launch in launches {
            for of in launch.buffers() {
                if of.access == Access::Write && !all.iter().any(|(name, _)| *name == of.name) {
                    all.push((of.name, self.room(of.dtype, of.len)?));
                }
            }
            let buffers: Vec<_> = all.iter().map(|(name, memory)| (*name, memory)).collect();
            self.run(launch, &buffers)?;
        }
        Ok(wanted.map(|wanted| {
            let found = all.iter().find(|(name, _)| *name == wanted);
            found
                .unwrap_or_else(|| panic!("no launch has {wanted}"))
                .1
                .clone()
        }))
    }
}

#[cfg(test)]
mod tests;
