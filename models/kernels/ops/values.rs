//! Converts CPU tensors to slices of f32 and back, for the start and end of every operation.

use std::borrow::Cow;
use std::ops::{Deref, Range};

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor};
use half::slice::HalfFloatSliceExt as _;
use half::vec::HalfFloatVecExt as _;

use crate::product::{Operand, Rounding};

/// Returns the numbers of a contiguous argument in f32; bf16 is converted. Together with [`stored`], an operation computes on the
/// CPU what its kernel computes on a GPU: it reads bf16, sums in f32, and rounds once.
pub(crate) fn floats<'a>(
    op: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<Cow<'a, [f32]>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("{op}: expected a contiguous argument");
    };
    match storage {
        CpuStorage::F32(all) => Ok(Cow::Borrowed(&all[start..end])),
        CpuStorage::BF16(all) => Ok(Cow::Owned(all[start..end].to_f32_vec())),
        other => candle_core::bail!("{op}: expected f32 or bf16, found {:?}", other.dtype()),
    }
}

/// Returns a contiguous argument of `[rows, cols]` as a factor of products: bf16 as it is, f32 rounded as `rounding` says.
pub(crate) fn operand<'a>(
    op: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
    size: [usize; 2],
    rounding: Rounding,
) -> Result<Operand<'a>> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => {
            Ok(Operand::new(&all[start..end], size, rounding))
        }
        (CpuStorage::BF16(all), Some((start, end))) => Ok(Operand::of_bf16(&all[start..end], size)),
        (other, _) => {
            let found = other.dtype();
            candle_core::bail!("{op}: expected contiguous f32 or bf16, found {found:?}")
        }
    }
}

/// The numbers of a contiguous CPU tensor in their own type.
pub(crate) struct StoredNumbers<S> {
    storage: S,
    range: Range<usize>,
}

/// Borrows the numbers of `tensor`.
///
/// # Errors
/// If it is neither f32 nor bf16, not contiguous, or not on the CPU.
pub(crate) fn stored_numbers(
    tensor: &Tensor,
) -> Result<StoredNumbers<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_) | CpuStorage::BF16(_)), Some((start, end))) => {
            Ok(StoredNumbers {
                storage,
                range: start..end,
            })
        }
        _ => candle_core::bail!(
            "expected contiguous f32 or bf16 on the CPU, found {:?} {layout:?}",
            tensor.dtype()
        ),
    }
}

impl<S: Deref<Target = Storage>> StoredNumbers<S> {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns them as a factor of products: bf16 as it is, f32 rounded as `rounding` says.
    pub(crate) fn operand(&self, size: [usize; 2], rounding: Rounding) -> Operand<'_> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => {
                Operand::new(&all[self.range.clone()], size, rounding)
            }
            Storage::Cpu(CpuStorage::BF16(all)) => Operand::of_bf16(&all[self.range.clone()], size),
            _ => unreachable!("`stored_numbers` has checked the type"),
        }
    }
}

/// Converts numbers to storage of `dtype`, f32 or bf16 (round to nearest, ties to even).
pub(crate) fn stored(values: Vec<f32>, dtype: DType) -> CpuStorage {
    match dtype {
        DType::BF16 => CpuStorage::BF16(Vec::from_f32_slice(&values)),
        _ => CpuStorage::F32(values),
    }
}

/// Returns the values of a contiguous f32 variable for modification.
pub(crate) fn values_mut<'a>(
    op: &str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => candle_core::bail!("{op}: expected a contiguous f32 variable"),
    }
}

/// Numbers of a contiguous CPU tensor in f32: borrowed, or converted from bf16.
pub enum Floats<S> {
    /// The storage, and the tensor's range in it.
    Borrowed(S, Range<usize>),
    /// Converted from bf16.
    Converted(Vec<f32>),
}

/// Borrows or converts the numbers of `tensor`.
///
/// # Errors
/// If it is neither f32 nor bf16, not contiguous, or not on the CPU.
pub fn read(tensor: &Tensor) -> Result<Floats<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, found {layout:?}");
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Floats::Borrowed(storage, start..end)),
        Storage::Cpu(CpuStorage::BF16(all)) => Ok(Floats::Converted(all[start..end].to_f32_vec())),
        _ => candle_core::bail!(
            "expected f32 or bf16 on the CPU, found {:?}",
            tensor.dtype()
        ),
    }
}

impl<S: Deref<Target = Storage>> Deref for Floats<S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Converted(all) => all,
            Self::Borrowed(storage, range) => match &**storage {
                Storage::Cpu(CpuStorage::F32(all)) => &all[range.clone()],
                _ => &[],
            },
        }
    }
}

/// Creates a CPU tensor with the type and shape of `like`.
pub(crate) fn tensor_like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    tensor(values, like.shape())?.to_dtype(like.dtype())
}

/// Creates a CPU tensor.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
