//! HOG on a GPU. (On the CPU it is a tokenizer's own.)

pub mod launch;
#[cfg(test)]
pub(crate) mod reference;
