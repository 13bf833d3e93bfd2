//! K-means on a GPU: assignment and update; and, for CPUs that have them, products in bf16. (The rest of it on a CPU is the
//! tokenizers' own.)

pub mod bf16;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;
