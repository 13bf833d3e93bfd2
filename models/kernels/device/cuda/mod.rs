//! Kernels on a GPU: compiled by NVRTC, at first use for the device at hand. The `.cu` files stand beside their CPU twins, what is
//! launched is computed by each operation's `launch.rs`.

#[cfg(feature = "cuda")]
pub mod beside;
pub mod cache;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod nvrtc;
#[cfg(feature = "cuda")]
pub mod ops;

/// Headers that the kernels include.
pub const HEADERS: [(&str, &str); 2] = [
    ("common.cuh", include_str!("common.cuh")),
    ("tensor_core.cuh", include_str!("tensor_core.cuh")),
];

#[cfg(test)]
mod tests;
