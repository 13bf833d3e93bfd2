//! Crops, flips and resizes on a GPU to the same bytes as Pillow. The tokenizers' CPU code uses the same weights.

pub mod launch;
mod taps;

pub use taps::{PRECISION, add_taps};
