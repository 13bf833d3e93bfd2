//! Tensors end to end in one buffer, as the optimisers' launches take them: all variables in one launch.

use candle_core::{Result, Tensor};

use crate::device::launch::THREADS;

/// Numbers of a block: four per thread. Every tensor begins at a multiple.
pub const CHUNK: u32 = 4 * THREADS;

/// Where tensors lie, each filled up to whole chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Where each tensor begins.
    pub starts: Vec<usize>,
    /// Numbers of each tensor.
    pub lengths: Vec<usize>,
    /// Whose numbers each chunk holds.
    pub chunk_tensor: Vec<u32>,
}

impl Flat {
    /// For tensors of these lengths.
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

    /// Holds a step's arguments to this layout: `state` `[1 + kinds, len]`, `grad` `[len]`, and lists of a number per tensor.
    ///
    /// # Errors
    /// When one has another shape.
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

    /// Numbers of a flat buffer.
    pub fn len(&self) -> usize {
        self.chunk_tensor.len() * CHUNK as usize
    }

    /// Whether no tensor has a number.
    pub fn is_empty(&self) -> bool {
        self.chunk_tensor.is_empty()
    }

    /// The first chunk of each tensor, and behind the last one the number of all.
    pub fn first_chunks(&self) -> Vec<u32> {
        let firsts = self.starts.iter().map(|start| start / CHUNK as usize);
        firsts
            .chain([self.chunk_tensor.len()])
            .map(|chunk| chunk as u32)
            .collect()
    }

    /// Where tensor `at` lies, without what it is filled up with.
    pub fn range(&self, at: usize) -> std::ops::Range<usize> {
        self.starts[at]..self.starts[at] + self.lengths[at]
    }
}
