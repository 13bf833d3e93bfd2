//! What tiles need of an instruction set.

use pulp::Simd;

/// Rows of a tile: with four vectors of AVX-512 each, or two of AVX2, the sums fill the registers.
pub(super) const ROWS: usize = 6;

/// A machine's vectors.
pub(super) trait Machine: Simd {
    /// Vectors in a row of a tile.
    const VECTORS: usize;

    /// Writes the transpose of the square of `F32_LANES` rows and columns at the beginning of `from`, whose rows begin every
    /// `from_stride` numbers, to the beginning of `to`.
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize);
}
