//! Copies of an operand's pieces in the order in which a tile reads them.

use super::Mat;
use super::tiles::{Machine, ROWS};

/// Columns `column..column + cols` of `b` at `depth` inner indices from `first` on: one index after the other, each filled up
/// with zeros to whole vectors.
#[inline(always)]
pub(super) fn pack_columns<M: Machine>(
    machine: M,
    b: Mat<'_>,
    (first, depth): (usize, usize),
    (column, cols): (usize, usize),
    panel: &mut [f32],
) {
    let wide = cols.next_multiple_of(M::F32_LANES);
    let panel = &mut panel[..depth * wide];
    if b.col_stride == 1 {
        let rows = b.data[first * b.row_stride + column..].chunks(b.row_stride);
        if cols == M::VECTORS * M::F32_LANES {
            // Apart, so that the length is known.
            let whole = M::VECTORS * M::F32_LANES;
            for (to, from) in panel.chunks_exact_mut(whole).zip(rows) {
                to.copy_from_slice(&from[..whole]);
            }
        } else {
            for (to, from) in panel.chunks_exact_mut(wide).zip(rows) {
                to[..cols].copy_from_slice(&from[..cols]);
                to[cols..].fill(0.0);
            }
        }
        return;
    }
    let from = &b.data[column * b.col_stride + first..];
    transpose(machine, from, b.col_stride, [cols, depth], wide, panel);
}

/// The transpose of `[rows, cols]`, whose rows begin every `stride` numbers, to rows of `wide` numbers; what is beyond `rows`
/// becomes zero.
#[inline(always)]
fn transpose<M: Machine>(
    machine: M,
    from: &[f32],
    stride: usize,
    [rows, cols]: [usize; 2],
    wide: usize,
    to: &mut [f32],
) {
    let lanes = M::F32_LANES;
    for row in (0..wide).step_by(lanes) {
        let whole = match row + lanes <= rows {
            true => cols - cols % lanes,
            false => 0,
        };
        for col in (0..whole).step_by(lanes) {
            let from = &from[row * stride + col..];
            machine.transpose(from, stride, &mut to[col * wide + row..], wide);
        }
        for row in row..row + lanes {
            let values = match row < rows {
                true => &from[row * stride..][..cols],
                false => &[],
            };
            for col in whole..cols {
                to[col * wide + row] = values.get(col).copied().unwrap_or(0.0);
            }
        }
    }
}

/// `rows` rows of `a`, which lies in columns, from `row` on, at `depth` inner indices from `first` on: one index after the
/// other, each filled up with zeros to [`ROWS`]. `to` is two numbers longer than that.
#[inline(always)]
pub(super) fn pack_rows(
    a: Mat<'_>,
    (first, depth): (usize, usize),
    (row, rows): (usize, usize),
    to: &mut [f32],
) {
    /// A power of two, which is one move; the next index writes over what is too much.
    const MOVED: usize = 8;
    let columns = a.data[first * a.col_stride + row..].chunks(a.col_stride);
    for (index, from) in columns.take(depth).enumerate() {
        let to = &mut to[index * ROWS..][..MOVED];
        match from.first_chunk::<MOVED>() {
            Some(from) if rows == ROWS => to.copy_from_slice(from),
            _ => {
                to[..rows].copy_from_slice(&from[..rows]);
                to[rows..ROWS].fill(0.0);
            }
        }
    }
}
