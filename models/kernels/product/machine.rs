//! The vector operations that tiles need from an instruction set.

use pulp::Simd;

/// Rows of a tile. The sums fill the registers: four AVX-512 or two AVX2 vectors a row.
pub(super) const ROWS: usize = 6;

/// An instruction set's vectors, and what a lane of them holds: a number, or a pair of bf16.
pub(super) trait Machine: Copy {
    /// Vectors of f32.
    type Vectors: Simd;
    /// Vectors in a row of a tile.
    const COUNT: usize;
    /// Numbers in a vector.
    const LANES: usize = Self::Vectors::F32_LANES;

    /// The operations on f32.
    fn vectors(self) -> Self::Vectors;

    /// Runs `work`, compiled for the instruction set.
    fn vectorize(self, work: impl Work);

    /// Returns `sum + x b` per lane. For pairs, the product of the upper halves is added first, then that of the lower ones, and subnormal
    /// numbers count as zero.
    fn add_product(self, x: Lanes<Self>, b: Lanes<Self>, sum: Lanes<Self>) -> Lanes<Self>;

    /// Writes the transpose of a square of `LANES` x `LANES` lanes. Rows start every `from_stride` lanes of `from`, and every
    /// `to_stride` lanes of `to`.
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize);
}

/// A vector of a machine.
pub(super) type Lanes<M> = <<M as Machine>::Vectors as Simd>::f32s;

/// Code that [`Machine::vectorize`] runs. It and all that it calls must be inlined.
pub(super) trait Work {
    /// Does the work.
    fn work(self);
}
