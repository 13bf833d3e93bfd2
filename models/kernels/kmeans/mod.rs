//! K-means on a GPU: assignment and update. (On the CPU it is the tokenizers' own.)

pub mod device;
pub mod launch;
#[cfg(test)]
pub(super) mod reference;
