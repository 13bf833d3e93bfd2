//! Crop, flip and resize on a GPU, to the bytes that Pillow gives. (On the CPU it is the tokenizers' own, by the same weights.)

pub mod launch;
mod taps;

pub use taps::{PRECISION, add_taps};
