//! HOG on a GPU. The CPU code is part of the tokenizers.

pub mod launch;
#[cfg(test)]
pub(crate) mod reference;
