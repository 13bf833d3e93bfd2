//! Copies of an operand's pieces in the order in which a tile reads them.

use super::machine::{Machine, ROWS};
use super::matrix::Mat;

/// Columns `column..column + cols` of `b` at `depth` inner indices from `first` on, in panels of a tile's width, the last filled
/// up with zeros to whole vectors. A panel has one index after the other.
#[inline(always)]
pub(super) fn pack_columns<M: Machine>(
    machine: M,
    b: Mat<'_>,
    (first, depth): (usize, usize),
    (column, cols): (usize, usize),
    panels: &mut [f32],
) {
    let width = M::VECTORS * M::F32_LANES;
    if b.col_stride == 1 {
        let rows = b.data[first * b.row_stride + column..].chunks(b.row_stride);
        for (index, row) in rows.take(depth).enumerate() {
            copy_row::<M>(&row[..cols], (index, depth), panels);
        }
        return;
    }
    for at in (0..cols).step_by(width) {
        let cols = width.min(cols - at);
        let wide = cols.next_multiple_of(M::F32_LANES);
        let from = &b.data[(column + at) * b.col_stride + first..];
        let panel = &mut panels[at * depth..][..depth * wide];
        transpose(machine, from, b.col_stride, [cols, depth], wide, panel);
    }
}

/// Row `index` of `depth` into its places in the panels: memory is read in its order.
#[inline(always)]
fn copy_row<M: Machine>(row: &[f32], (index, depth): (usize, usize), panels: &mut [f32]) {
    let width = M::VECTORS * M::F32_LANES;
    let (whole, rest) = row.split_at(row.len() - row.len() % width);
    for (from, panel) in whole
        .chunks_exact(width)
        .zip(panels.chunks_exact_mut(depth * width))
    {
        panel[index * width..][..width].copy_from_slice(from);
    }
    if !rest.is_empty() {
        let wide = rest.len().next_multiple_of(M::F32_LANES);
        let to = &mut panels[whole.len() * depth + index * wide..][..wide];
        to[..rest.len()].copy_from_slice(rest);
        to[rest.len()..].fill(0.0);
    }
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

/// Numbers that [`pack_rows`] moves at once, a power of two: the next index writes over what is too much.
const MOVED: usize = 8;

/// Numbers of a group of rows, with those too many after its last index.
pub(super) const fn group_len(depth: usize) -> usize {
    depth * ROWS + MOVED - ROWS
}

/// Rows `row..row + rows` of `a`, which lies in columns, at `depth` inner indices from `first` on, in groups of [`ROWS`], the last
/// filled up with zeros. A group has one index after the other and is [`group_len`] numbers.
#[inline(always)]
pub(super) fn pack_rows(
    a: Mat<'_>,
    (first, depth): (usize, usize),
    (row, rows): (usize, usize),
    groups: &mut [f32],
) {
    let columns = a.data[first * a.col_stride + row..].chunks(a.col_stride);
    for (index, column) in columns.take(depth).enumerate() {
        for at in (0..rows).step_by(ROWS) {
            let to = &mut groups[at / ROWS * group_len(depth) + index * ROWS..][..MOVED];
            let rows = ROWS.min(rows - at);
            match column[at..].first_chunk::<MOVED>() {
                Some(from) if rows == ROWS => to.copy_from_slice(from),
                _ => {
                    to[..rows].copy_from_slice(&column[at..][..rows]);
                    to[rows..ROWS].fill(0.0);
                }
            }
        }
    }
}
