//! A bf16 operand of a product as it lies in memory.

use pulp::bytemuck::cast_slice;

/// Rows of pairs of bf16. The inner lanes of a product are the pairs of a row, or, if its inner index counts rows, the numbers below each
/// other in two rows.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    /// Pairs of neighbours in a row, the lower column in the low half. A last number alone has a zero beside it.
    pub pairs: &'a [u32],
    /// Distance between rows in pairs.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Numbers in a row.
    pub cols: usize,
    /// Whether the inner index of the product counts rows.
    pub inner_counts_rows: bool,
}

impl<'a> Side<'a> {
    /// Number of inner lanes.
    #[inline(always)]
    pub(super) fn inner(self) -> usize {
        match self.inner_counts_rows {
            true => self.rows.div_ceil(2),
            false => self.cols.div_ceil(2),
        }
    }

    /// The size of the other index: rows of a left operand, columns of a right one.
    #[inline(always)]
    pub(super) fn outer(self) -> usize {
        match self.inner_counts_rows {
            true => self.cols,
            false => self.rows,
        }
    }

    /// The pairs as lanes.
    #[inline(always)]
    pub(super) fn lanes(self) -> &'a [f32] {
        cast_slice(self.pairs)
    }

    /// Writes the inner lanes `index` of columns from `column`, which is even: the numbers of row `2 index` in the low halves, those of the
    /// next row, or zeros, in the high ones. The length of `to` is even.
    #[inline(always)]
    pub(super) fn joined(self, index: usize, column: usize, to: &mut [f32]) {
        let wide = to.len() / 2;
        let row = |row: usize| &self.pairs[row * self.stride + column / 2..][..wide];
        let upper = row(2 * index);
        let (to, _) = to.as_chunks_mut::<2>();
        if 2 * index + 1 == self.rows {
            for (to, a) in to.iter_mut().zip(upper) {
                *to = [f32::from_bits(a & 0xffff), f32::from_bits(a >> 16)];
            }
            return;
        }
        for ((to, a), b) in to.iter_mut().zip(upper).zip(row(2 * index + 1)) {
            let low = a & 0xffff | b << 16;
            let high = a >> 16 | b & 0xffff_0000;
            *to = [f32::from_bits(low), f32::from_bits(high)];
        }
    }
}
