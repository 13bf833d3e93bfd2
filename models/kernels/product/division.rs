//! How an operand is divided into parts that caches hold.

use super::x86::{LANES, Pairs, WIDTH};

/// Maximum number of inner lanes of a chunk.
const DEPTH: usize = 512;
/// Approximate size of the packed panels in lanes (384 KiB). With 640 KiB, products were 1 % slower at an L2 cache of 1 MiB (BENCHMARKS.md).
const BLOCK: usize = 96 << 10;

/// How the right operand is divided: the inner size of a chunk, and the columns that are packed at a time.
#[derive(Clone, Copy)]
pub(super) struct Division {
    pub depth: usize,
    pub block: usize,
    /// Inner lanes that are multiplied at once.
    step: usize,
}

impl Division {
    /// Divides a right operand of `[inner, cols]` lanes.
    #[inline(always)]
    pub(super) fn of(machine: Pairs, [inner, cols]: [usize; 2]) -> Self {
        let step = machine.step();
        let depth = inner.div_ceil(inner.div_ceil(DEPTH)).next_multiple_of(step);
        let blocks = cols.div_ceil((BLOCK / depth).max(WIDTH));
        let block = cols.div_ceil(blocks).next_multiple_of(WIDTH);
        Self { depth, block, step }
    }

    #[inline(always)]
    pub(super) fn chunk(self, [inner, cols]: [usize; 2], first: usize, column: usize) -> Chunk {
        let depth = self.depth.min(inner - first);
        Chunk {
            first,
            depth,
            padded: depth.next_multiple_of(self.step),
            column,
            cols: self.block.min(cols - column),
        }
    }

    /// Size of all packed columns of all chunks. Only the last panel of a chunk is padded.
    pub(super) fn len(self, [inner, cols]: [usize; 2]) -> usize {
        inner.next_multiple_of(self.step) * cols.next_multiple_of(LANES)
    }
}

/// A chunk of the inner size and a range of packed columns.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub first: usize,
    pub depth: usize,
    /// Inner lanes of its panels: `depth`, and zeros up to a whole step.
    pub padded: usize,
    pub column: usize,
    pub cols: usize,
}

impl Chunk {
    /// Size of its packed columns.
    #[inline(always)]
    pub(super) fn len(self) -> usize {
        self.padded * self.cols.next_multiple_of(LANES)
    }
}
