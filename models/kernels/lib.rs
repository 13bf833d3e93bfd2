//! What models, tokenizers and metrics compute with: loops compiled for every instruction set (`simd`), matrix products
//! (`product`), launches on a GPU (`device`), and operations on tensors (`ops`, a folder for each).
//!
//! Knows no model, no tokenizer and no suite. Nothing here starts threads but the optimisers: callers run shards side by side.

#[cfg(test)]
extern crate self as tessera_kernels;

pub mod device;
pub mod ops;
pub mod product;
pub mod simd;

// The crate `tessera-testing` depends on this one, which as its dependency would be another crate than the one under test.
#[cfg(test)]
#[path = "testing/lib.rs"]
mod testing;
