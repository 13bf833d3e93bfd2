//! Executes launches: memory, copies and kernels, on a GPU (`cuda/beside.rs`, feature `cuda`) or, in tests, on the host (the crate
//! `tessera-testing`). All device computations go through [`Device`], so the same code runs on both.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use super::launch::{Access, Arg, Dtype, Launch};
use super::matmul::{Form, Matmul, Operands};
use super::memory::bytes_of;
pub use super::memory::{Held, Memory, Number, Packing};
pub use interface::{Combined, DeviceError, Launcher, Mark, Operation, Result};

pub(super) mod interface;

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

    /// Copies packed lists to the device together and returns the memory of all, in bytes, and of each, in order. Does not wait for earlier
    /// launches.
    ///
    /// # Errors
    /// If memory is exhausted.
    #[expect(unsafe_code, reason = "passes an address")]
    pub fn put_packed(&self, packing: &Packing<'_>) -> Result<(Memory, Vec<Memory>)> {
        let all = self.room(Dtype::U8, packing.len())?;
        // SAFETY: `all` has the same length.
        unsafe {
            (self.0).upload(all.address(), packing.len(), &mut |to| packing.fill(to))?;
        }
        let lists = packing.lists_in(&all);
        Ok((all, lists))
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
        [to, from]
            .iter()
            .for_each(|memory| self.0.keep(&memory.held));
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
        used.iter()
            .for_each(|(memory, _)| self.0.keep(&memory.held));
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
        let keep = |memory: &Memory| self.0.keep(&memory.held);
        operands.map(keep);
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
