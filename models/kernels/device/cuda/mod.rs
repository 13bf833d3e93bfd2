//! GPU kernels. NVRTC compiles a kernel for the present device at first use. The `.cu` files are next to their CPU
//! counterparts; each operation's `launch.rs` computes its launches.

#[cfg(feature = "cuda")]
pub mod beside;
pub mod cache;
#[cfg(feature = "cuda")]
pub mod gpu;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(feature = "cuda")]
pub mod matmul;
pub mod nvrtc;
#[cfg(feature = "cuda")]
pub mod open;
#[cfg(feature = "cuda")]
pub mod ops;
#[cfg(feature = "cuda")]
mod staging;

/// Headers that the kernels include: name and text.
pub const HEADERS: [(&str, &str); 3] = [
    ("columns.cuh", include_str!("columns.cuh")),
    ("common.cuh", include_str!("common.cuh")),
    ("tensor_core.cuh", include_str!("tensor_core.cuh")),
];

#[cfg(test)]
mod tests;
