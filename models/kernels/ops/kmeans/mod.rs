//! K-means assignment and update on a GPU, and bf16 products for CPUs that support them. The other CPU code is part of the
//! tokenizers.

pub mod bf16;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;
