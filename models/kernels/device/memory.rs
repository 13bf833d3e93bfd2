//! Memory of a device and the numbers that it holds.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::launch::{Dtype, Float};

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
pub struct Packing<'a> {
    /// Offset and bytes of each piece of a list.
    pieces: Vec<(usize, Cow<'a, [u8]>)>,
    /// Type and range of bytes of each list.
    lists: Vec<(Dtype, Range<usize>)>,
}

impl<'a> Packing<'a> {
    /// Packs lists of one type.
    pub fn of<T: Number>(lists: &[&[T]]) -> Self {
        lists
            .iter()
            .fold(Self::default(), |all, list| all.with(list))
    }

    /// Adds a list.
    #[must_use]
    pub fn with<T: Number>(self, list: &[T]) -> Self {
        self.add(T::DTYPE, [Cow::Owned(bytes_of(list).to_vec())])
    }

    /// Adds one list of the bytes of all `pieces`, which are not copied before the copy to the device.
    #[must_use]
    pub fn with_pieces(self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.add(Dtype::U8, pieces.into_iter().map(Cow::Borrowed))
    }

    fn add(mut self, dtype: Dtype, pieces: impl IntoIterator<Item = Cow<'a, [u8]>>) -> Self {
        let start = self.len();
        let mut end = start;
        for piece in pieces {
            let at = end;
            end += piece.len();
            self.pieces.push((at, piece));
        }
        self.lists.push((dtype, start..end));
        self
    }

    /// Returns the number of bytes of all lists.
    pub(super) fn len(&self) -> usize {
        let end = self.lists.last().map_or(0, |(_, bytes)| bytes.end);
        end.next_multiple_of(16)
    }

    /// Writes the lists into `to`, which has [`len`](Self::len) bytes. Bytes between lists keep their values.
    pub(super) fn fill(&self, to: &mut [u8]) {
        for (at, piece) in &self.pieces {
            to[*at..at + piece.len()].copy_from_slice(piece);
        }
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

    /// Returns which variant of a kernel processes the numbers: that of f32, or of bf16. [`Device::run`](super::launcher::Device::run)
    /// refuses other types.
    pub fn float(&self) -> Float {
        match self.dtype {
            Dtype::F32 => Float::F32,
            _ => Float::Bf16,
        }
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

    /// Returns whether it may be a matrix of a product. Memory of its own always is; on the host, which aligns less, offsets count.
    pub(super) fn starts_a_matrix(&self) -> bool {
        (self.address() - self.held.address()).is_multiple_of(super::matmul::ALIGNMENT)
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
