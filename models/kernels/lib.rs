//! The compute library of models, tokenizers and metrics: loops compiled for every instruction set (`simd`), matrix products
//! (`product`), GPU launches (`device`), and tensor operations with one folder each (`ops`).
//!
//! The crate knows no model, tokenizer or suite. Only the optimisers start threads; callers run shards in parallel.

#![deny(missing_docs)]

#[cfg(test)]
extern crate self as tessera_kernels;

pub mod device;
pub mod ops;
pub mod product;
pub mod simd;
pub mod variables;

// A dependency on `tessera-testing` would link a second copy of this crate, so the tests include its source as a module.
#[cfg(test)]
#[path = "testing/lib.rs"]
mod testing;
