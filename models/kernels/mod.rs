//! Operations with a backward that Candle lacks, drops, or spreads over many passes: each has a plain `reference`, a fast `cpu`
//! form, and a test that holds outputs and gradients together. Single-threaded: callers run shards side by side.

pub mod adamw;
pub mod attention;
pub mod bias_gelu;
pub mod block;
pub mod bytes;
pub mod count;
pub mod cross_entropy;
#[cfg(any(test, feature = "cuda"))]
pub mod cuda;
pub mod emulation;
pub mod gather;
pub mod hog;
pub mod kmeans;
pub mod lars;
pub mod launch;
pub mod launcher;
pub mod layer_norm;
pub mod linear;
pub mod patchify;
pub mod product;
pub mod resample;
pub mod simd;

pub use attention::attention;
pub use bias_gelu::bias_gelu;
pub use cross_entropy::cross_entropy;
pub use gather::{gather_rows, restore_patches};
pub use layer_norm::layer_norm;
pub use linear::linear;

use std::ops::Deref;

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, WithDType};

/// The values of a contiguous argument.
fn values<'a, T: WithDType>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let all = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => candle_core::bail!("{op}: expected a contiguous argument"),
    }
}

/// The values of a contiguous f32 variable, to be changed.
fn values_mut<'a>(op: &str, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => candle_core::bail!("{op}: expected a contiguous f32 variable"),
    }
}

/// The values of a contiguous tensor on the CPU, borrowed.
pub(crate) struct Values<S> {
    storage: S,
    range: std::ops::Range<usize>,
}

/// Borrows `tensor`'s f32 values.
///
/// # Errors
/// When it is not f32, not contiguous, or not on the CPU.
pub(crate) fn read(tensor: &Tensor) -> Result<Values<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, found {layout:?}");
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values {
            storage,
            range: start..end,
        }),
        _ => candle_core::bail!("expected f32 on the CPU, found {:?}", tensor.dtype()),
    }
}

impl<S: Deref<Target = Storage>> Deref for Values<S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.range.clone()],
            _ => &[],
        }
    }
}

/// A tensor on the CPU.
fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

#[cfg(test)]
mod tests;
