//! Where launches run: memory there, copies to and from it, launches. A GPU (`cuda/beside.rs`, feature `cuda`), or the host for
//! tests (the crate `tessera-testing`). What is computed on a device goes through [`Device`], so the same code runs on either.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::launch::{Access, Arg, Dtype, Launch, LaunchError};

/// What a device could not do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A launch that cannot be.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A launch was given other memory than it takes.
    #[error("{launch}: {buffer}: {message}")]
    Buffer {
        /// The launch.
        launch: String,
        /// Its buffer.
        buffer: &'static str,
        /// What is expected and what was found.
        message: String,
    },
    /// The device refused.
    #[error("{device}: {message}")]
    Refused {
        /// Which.
        device: String,
        /// Why, and what to do.
        message: String,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// Memory that a launcher has allocated, freed when it is dropped and nothing launched before uses it any more.
pub trait Held: Send + Sync {
    /// Where it begins, a multiple of 16.
    fn address(&self) -> u64;
    /// For the launcher that made it.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Memory of this program that a device reads by itself, while the program goes on.
pub struct Pinned(pub Box<dyn AsRef<[u8]> + Send + Sync>);

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// What a device must be able to do. Everything happens in the order of the calls, whatever thread makes them.
///
/// Implementers trust addresses: only [`Device`] calls them, which has checked.
#[expect(unsafe_code, reason = "addresses are the caller's")]
pub trait Launcher: Send + Sync {
    /// Its name, for messages and records.
    fn name(&self) -> String;
    /// Memory of so many bytes, with anything in it.
    ///
    /// # Errors
    /// When there is no room.
    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>>;
    /// Bytes that can still be allocated, about.
    ///
    /// # Errors
    /// When the device does not say.
    fn free_bytes(&self) -> Result<usize>;
    /// Bytes to the address `to`; they may be used again when it returns. ([`Pinned`] memory, which nobody changes, is read later.)
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Safety
    /// So many bytes are allocated at `to`.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Bytes from the address `from`, when what was launched before is done.
    ///
    /// # Errors
    /// What the device says, of earlier launches too.
    ///
    /// # Safety
    /// So many bytes are allocated at `from`.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Copies `bytes` from one address to another; the places do not overlap.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Safety
    /// So many bytes are allocated at both.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;
    /// Until all that was asked for before is done.
    ///
    /// # Errors
    /// What the device says, of earlier launches too.
    fn wait(&self) -> Result<()>;
    /// `bytes` bytes of pinned memory, which `fill` fills.
    ///
    /// # Errors
    /// When the system does not give so many.
    fn pinned(&self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pinned>;
    /// Numbers as a tensor where models compute, f32; nothing else holds them, and they are there.
    ///
    /// # Errors
    /// When something else holds them, or the device refuses.
    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor>;
    /// Launches; does not wait.
    ///
    /// # Errors
    /// When it does not fit the device, does not compile, or is refused.
    ///
    /// # Safety
    /// `addresses` are those of the launch's buffers, in order, each of as many numbers as it says; what is written overlaps
    /// nothing else.
    unsafe fn launch(&self, launch: &Launch, addresses: &[u64]) -> Result<()>;
}

mod sealed {
    pub trait Sealed {}
}

/// Numbers that buffers hold.
pub trait Number: Copy + Default + sealed::Sealed {
    /// Its name in launches.
    const DTYPE: Dtype;
}

macro_rules! numbers {
    ($($number:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $number {}
        impl Number for $number {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}
numbers!(f32 => F32, u8 => U8, u32 => U32, i32 => I32, i64 => I64, u64 => U64);

/// Numbers on a device, or a part of them; clones are the same memory.
#[derive(Clone)]
pub struct Memory {
    held: Arc<dyn Held>,
    dtype: Dtype,
    /// In numbers.
    range: Range<usize>,
}

impl Memory {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Their type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Some of them.
    ///
    /// # Panics
    /// When they are not all here.
    #[must_use]
    pub fn part(&self, part: Range<usize>) -> Self {
        assert!(part.start <= part.end && part.end <= self.len(), "{part:?}");
        let start = self.range.start;
        Self {
            range: start + part.start..start + part.end,
            ..self.clone()
        }
    }

    /// Whether launches take it: parts may begin anywhere, kernels want multiples of 16 bytes.
    pub fn is_aligned(&self) -> bool {
        self.address().is_multiple_of(16)
    }

    fn address(&self) -> u64 {
        self.held.address() + (self.range.start * self.dtype.size()) as u64
    }

    fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    fn overlaps(&self, other: &Self) -> bool {
        let ends = |memory: &Self| (memory.address(), memory.address() + memory.bytes() as u64);
        let ((a, b), (c, d)) = (ends(self), ends(other));
        a < d && c < b
    }
}

/// A device that launches run on; clones are the same.
#[derive(Clone)]
pub struct Device(Arc<dyn Launcher>);

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Device {
    /// Through `launcher`.
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self(launcher)
    }

    /// Its name, for messages and records.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// Bytes that can still be allocated, about.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn free_bytes(&self) -> Result<usize> {
        self.0.free_bytes()
    }

    /// Until all that was asked for before is done.
    ///
    /// # Errors
    /// What the device says, of earlier launches too.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }

    /// Room for `len` numbers, with anything in it.
    ///
    /// # Errors
    /// When there is none.
    pub fn room(&self, dtype: Dtype, len: usize) -> Result<Memory> {
        Ok(Memory {
            held: self.0.allocate((len * dtype.size()).max(16))?,
            dtype,
            range: 0..len,
        })
    }

    /// Numbers to the device.
    ///
    /// # Errors
    /// When there is no room.
    pub fn put<T: Number>(&self, values: &[T]) -> Result<Memory> {
        let memory = self.room(T::DTYPE, values.len())?;
        self.write(&memory, values)?;
        Ok(memory)
    }

    /// Numbers to where `to` is.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Panics
    /// When they are of another type or not as many.
    #[expect(unsafe_code, reason = "an address")]
    pub fn write<T: Number>(&self, to: &Memory, values: &[T]) -> Result<()> {
        assert_eq!((to.dtype, to.len()), (T::DTYPE, values.len()));
        let bytes = std::mem::size_of_val(values);
        // SAFETY: numbers without padding, read as the bytes that they are.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), bytes) };
        // SAFETY: `to` is as long.
        unsafe { self.0.write(to.address(), bytes) }
    }

    /// Bytes that lie apart to the device, one after the other. Those that are [`Pinned`] go without a copy in between.
    ///
    /// # Errors
    /// When there is no room.
    #[expect(unsafe_code, reason = "addresses")]
    pub fn put_all<'a>(&self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Memory> {
        let all = self.room(Dtype::U8, parts.clone().map(<[u8]>::len).sum())?;
        let mut at = 0;
        for part in parts {
            let place = all.part(at..at + part.len());
            // SAFETY: a part of what was allocated, as long.
            unsafe { self.0.write(place.address(), part) }?;
            at += part.len();
        }
        Ok(all)
    }

    /// `bytes` bytes of this program's memory that copies to the device need not copy first, filled by `fill`.
    ///
    /// # Errors
    /// When the system does not give so many.
    pub fn pinned(&self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pinned> {
        self.0.pinned(bytes, fill)
    }

    /// f32 numbers as a tensor where models compute, when what makes them is done. Nothing is copied on a GPU.
    ///
    /// # Errors
    /// When something else holds them, or the device refuses.
    ///
    /// # Panics
    /// When they are of another type, another number, or part of others.
    pub fn tensor(&self, memory: Memory, shape: &[usize]) -> Result<Tensor> {
        assert_eq!(memory.dtype, Dtype::F32);
        assert_eq!(memory.range, 0..shape.iter().product());
        self.0.wait()?;
        self.0.tensor(memory.held, shape)
    }

    /// Numbers from the device, when what was launched before is done.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Panics
    /// When they are of another type.
    #[expect(unsafe_code, reason = "an address")]
    pub fn read<T: Number>(&self, from: &Memory) -> Result<Vec<T>> {
        assert_eq!(from.dtype, T::DTYPE);
        let mut values = vec![T::default(); from.len()];
        let bytes = std::mem::size_of_val(values.as_slice());
        // SAFETY: any bytes are numbers of these types, which have no padding.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), bytes) };
        // SAFETY: `from` is as long.
        unsafe { self.0.read(from.address(), bytes) }?;
        Ok(values)
    }

    /// Copies numbers on the device.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Panics
    /// When they are of another type, not as many, or overlap.
    #[expect(unsafe_code, reason = "addresses")]
    pub fn copy(&self, to: &Memory, from: &Memory) -> Result<()> {
        assert_eq!((to.dtype, to.len()), (from.dtype, from.len()));
        assert!(to.is_empty() || !to.overlaps(from), "a copy onto itself");
        // SAFETY: both are as long, and apart.
        unsafe { self.0.copy(to.address(), from.address(), to.bytes()) }
    }

    /// Launches with the buffers `given` by name; does not wait.
    ///
    /// # Errors
    /// When a buffer is absent, of another type or length, begins at no multiple of 16 bytes, or overlaps one that is written; and
    /// what the device says.
    #[expect(unsafe_code, reason = "addresses")]
    pub fn run(&self, launch: &Launch, given: &[(&'static str, &Memory)]) -> Result<()> {
        let mut used: Vec<(&Memory, Access)> = Vec::new();
        for of in launch.buffers() {
            let refuse = |message: String| DeviceError::Buffer {
                launch: launch.to_string(),
                buffer: of.name,
                message,
            };
            let found = given.iter().find(|(name, _)| *name == of.name);
            let (_, memory) = found.ok_or_else(|| refuse("was not given".into()))?;
            let (is, expected) = ((memory.dtype, memory.len()), (of.dtype, of.len));
            if is != expected {
                return Err(refuse(format!("found {is:?}, expected {expected:?}")));
            }
            if !memory.is_aligned() {
                return Err(refuse("begins at no multiple of 16 bytes".into()));
            }
            let written = |access| access != Access::Read;
            let clashes = |(other, access): &(&Memory, Access)| {
                (written(*access) || written(of.access)) && other.overlaps(memory)
            };
            if used.iter().any(clashes) {
                return Err(refuse(
                    "overlaps a buffer, and one of them is written".into(),
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
        // SAFETY: as checked above; memory of other devices cannot be told apart, but each computation has one device.
        unsafe { self.0.launch(launch, &addresses) }
    }

    /// The same, of launches one after the other that go by names: what is written and was not `given` is made. Returns what has
    /// the names `wanted`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// When a name is wanted that no launch has.
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
