//! Differentiable operations that Candle lacks, computes without a gradient, or computes in many passes. Each has a plain
//! `reference`, a fast `cpu` form, and a test that compares outputs and gradients. All but the optimisers use one thread;
//! callers run shards in parallel.

pub mod adamw;
pub mod attention;
pub mod bias_gelu;
pub mod block;
pub mod count;
pub mod cross_entropy;
pub mod flat;
pub mod gather;
pub mod hog;
pub mod kmeans;
pub mod lars;
pub mod layer_norm;
pub mod linear;
pub mod matmul;
pub mod patchify;
pub mod resample;
pub mod rounding;
pub mod squared_error;
pub mod values;

pub use attention::attention;
pub use bias_gelu::bias_gelu;
pub use cross_entropy::cross_entropy;
pub use gather::{gather_rows, restore_patches};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use matmul::matmul;

#[cfg(test)]
mod tests;
