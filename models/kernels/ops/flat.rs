//! Tensors concatenated in one buffer, so that an optimiser updates all variables in one launch.

use candle_core::{Result, Tensor};

use crate::device::launch::THREADS;

/// Numbers per block: four per thread. Every tensor starts at a multiple of this.
pub const CHUNK: u32 = 4 * THREADS;

/// Positions of tensors that are padded to whole chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Start of each tensor.
    pub starts: Vec<usize>,
    /// Length of each tensor.
    pub lengths: Vec<usize>,
    /// Tensor of each chunk.
    pub chunk_tensor: Vec<u32>,
}

impl Flat {
    /// Creates the layout of tensors of the given lengths.
    pub fn of(lengths: &[usize]) -> Self {
        let (mut starts, mut chunk_tensor) = (Vec::new(), Vec::new());
        for (tensor, length) in (0..).zip(lengths) {
            starts.push(chunk_tensor.len() * CHUNK as usize);
            let chunks = length.div_ceil(CHUNK as usize);
            chunk_tensor.extend(std::iter::repeat_n(tensor, chunks));
        }
        Self {
            starts,
            lengths: lengths.to_vec(),
            chunk_tensor,
        }
    }

    /// Checks the shapes of a step's arguments: `state` `[1 + kinds, len]`, `grad` `[len]`, and lists of one number per tensor.
    ///
    /// # Errors
    /// If a shape differs.
    pub(super) fn check(
        &self,
        op: &str,
        (state, kinds): (&Tensor, usize),
        grad: &Tensor,
        lists: &[&[f32]],
    ) -> Result<()> {
        let (len, tensors) = (self.len(), self.starts.len());
        if state.dims() != [1 + kinds, len] || grad.dims() != [len] {
            let (dims, rows) = ([state, grad].map(Tensor::dims), 1 + kinds);
            candle_core::bail!(
                "{op}: state and gradient {dims:?}, expected [{rows}, {len}] and [{len}]"
            );
        }
        if let Some(list) = lists.iter().find(|list| list.len() != tensors) {
            candle_core::bail!("{op}: {} numbers for {tensors} tensors", list.len());
        }
        Ok(())
    }

    /// Returns the length of a flat buffer.
    pub fn len(&self) -> usize {
        self.chunk_tensor.len() * CHUNK as usize
    }

    /// Returns whether all tensors are empty.
    pub fn is_empty(&self) -> bool {
        self.chunk_tensor.is_empty()
    }

    /// Returns the first chunk of each tensor, followed by the number of chunks.
    pub fn first_chunks(&self) -> Vec<u32> {
        let firsts = self.starts.iter().map(|start| start / CHUNK as usize);
        firsts
            .chain([self.chunk_tensor.len()])
            .map(|chunk| chunk as u32)
            .collect()
    }

    /// Returns the range of tensor `at`, without padding.
    pub fn range(&self, at: usize) -> std::ops::Range<usize> {
        self.starts[at]..self.starts[at] + self.lengths[at]
    }
}
