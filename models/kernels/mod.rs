//! Operations with a backward that Candle lacks or drops: each has a plain `reference`, a fast `cpu` form, and a test that
//! holds outputs and gradients together. Single-threaded: callers run shards side by side.

pub mod bytes;
mod gelu;
mod layer_norm;
pub mod product;
pub mod simd;
mod softmax;

pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use softmax::softmax;

use candle_core::{CpuStorage, Layout, Result};

/// The values of a contiguous f32 argument.
fn values<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => candle_core::bail!("{op}: expected a contiguous argument"),
    }
}

#[cfg(test)]
mod tests;
