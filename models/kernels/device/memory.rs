//! Memory of a device and the numbers that it holds.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::launch::Dtype;

/// Memory of a launcher. It is freed when it is dropped and all earlier launches have finished with it.
pub trait Held: Send + Sync {
    /// Returns the start address, a multiple of 16.
    fn address(&self) -> u64;
    /// Converts to `Any`, so that the launcher can recover its own type.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

mod sealed {
    pub trait Sealed {}
}

/// An element type of buffers.
pub trait Number: Copy + Default + sealed::Sealed {
    /// The type's name in launches.
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
numbers!(f32 => F32, half::bf16 => Bf16, u8 => U8, u32 => U32, i32 => I32, i64 => I64, u64 => U64);

/// Returns the bytes of numbers.
#[expect(unsafe_code, reason = "numbers as bytes")]
pub(super) fn bytes_of<T: Number>(values: &[T]) -> &[u8] {
    let bytes = std::mem::size_of_val(values);
    // SAFETY: the numbers have no padding, so they can be read as bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), bytes) }
}

/// Lists of numbers that one copy takes to a device. Each starts at a multiple of 16 bytes.
#[derive(Default)]
pub struct Packing {
    pub(super) bytes: Vec<u8>,
    /// Type and range of bytes of each list.
    lists: Vec<(Dtype, Range<usize>)>,
}

impl Packing {
    /// Packs lists of one type.
    pub fn of<T: Number>(lists: &[&[T]]) -> Self {
        lists
            .iter()
            .fold(Self::default(), |all, list| all.with(list))
    }

    /// Returns the lists in memory that holds the bytes.
    pub(super) fn lists_in(&self, all: &Memory) -> Vec<Memory> {
        let each = self.lists.iter().map(|(dtype, bytes)| Memory {
            held: all.held.clone(),
            dtype: *dtype,
            range: bytes.start / dtype.size()..bytes.end / dtype.size(),
        });
        each.collect()
    }

    /// Adds a list.
    #[must_use]
    pub fn with<T: Number>(mut self, list: &[T]) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes_of(list));
        self.lists.push((T::DTYPE, start..self.bytes.len()));
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        self
    }
}

/// Numbers on a device, or a range of them. Clones share the memory.
#[derive(Clone)]
pub struct Memory {
    pub(super) held: Arc<dyn Held>,
    pub(super) dtype: Dtype,
    /// Range in elements.
    pub(super) range: Range<usize>,
}

impl Memory {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns a range of the elements, which shares the memory.
    ///
    /// # Panics
    /// If the range exceeds this memory.
    #[must_use]
    pub fn part(&self, part: Range<usize>) -> Self {
        assert!(part.start <= part.end && part.end <= self.len(), "{part:?}");
        let start = self.range.start;
        Self {
            range: start + part.start..start + part.end,
            ..self.clone()
        }
    }

    /// Returns whether launches accept it: kernels need a multiple of 16 bytes, but parts may start anywhere.
    pub fn is_aligned(&self) -> bool {
        self.address().is_multiple_of(16)
    }

    pub(super) fn address(&self) -> u64 {
        self.held.address() + (self.range.start * self.dtype.size()) as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let ends = |memory: &Self| (memory.address(), memory.address() + memory.bytes() as u64);
        let ((a, b), (c, d)) = (ends(self), ends(other));
        a < d && c < b
    }
}
