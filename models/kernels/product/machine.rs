//! The vector operations that tiles need from an instruction set.

use pulp::Simd;

/// Rows of a tile. The sums fill the registers: four AVX-512 or two AVX2 vectors a row.
pub(super) const ROWS: usize = 6;

/// An instruction set's vectors.
pub(super) trait Machine: Simd {
    /// Vectors in a row of a tile.
    const VECTORS: usize;

    /// Writes the transpose of a square of `F32_LANES` x `F32_LANES` numbers. Rows start every `from_stride` numbers of
    /// `from`, and every `to_stride` numbers of `to`.
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize);
}
