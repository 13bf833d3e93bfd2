//! Copies parts of an operand in the order in which a tile reads them.

use super::machine::{Machine, ROWS};
use super::matrix::Mat;

/// Packs columns `column..column + cols` of `b` at `depth` inner indices, starting at `first`, into panels as wide as a tile. Zeros
/// pad the last panel to whole vectors. A panel stores one inner index after another.
#[inline(always)]
pub(super) fn pack_columns<M: Machine>(
    machine: M,
    b: Mat<'_>,
    (first, depth): (usize, usize),
    (column, cols): (usize, usize),
    panels: &mut [f32],
) {
    let width = M::COUNT * M::LANES;
    if b.col_stride == 1 {
        // The stride of a single row may be less than its length.
        let rows = b.data[first * b.row_stride + column..].chunks(b.row_stride.max(cols));
        for (index, row) in rows.take(depth).enumerate() {
            copy_row::<M>(&row[..cols], (index, depth), panels);
        }
        return;
    }
    for at in (0..cols).step_by(width) {
        let cols = width.min(cols - at);
        let wide = cols.next_multiple_of(M::LANES);
        let from = &b.data[(column + at) * b.col_stride + first..];
        let panel = &mut panels[at * depth..][..depth * wide];
        transpose(machine, from, b.col_stride, [cols, depth], wide, panel);
    }
}

/// Copies row `index` of `depth` into the panels. Memory is read sequentially.
#[inline(always)]
fn copy_row<M: Machine>(row: &[f32], (index, depth): (usize, usize), panels: &mut [f32]) {
    let width = M::COUNT * M::LANES;
    let (whole, rest) = row.split_at(row.len() - row.len() % width);
    for (from, panel) in whole
        .chunks_exact(width)
        .zip(panels.chunks_exact_mut(depth * width))
    {
        panel[index * width..][..width].copy_from_slice(from);
    }
    if !rest.is_empty() {
        let wide = rest.len().next_multiple_of(M::LANES);
        let to = &mut panels[whole.len() * depth + index * wide..][..wide];
        to[..rest.len()].copy_from_slice(rest);
        to[rest.len()..].fill(0.0);
    }
}

/// Transposes `[rows, cols]`, whose rows start every `stride` numbers, into rows of `wide` numbers, and pads with zeros beyond
/// `rows`.
#[inline(always)]
fn transpose<M: Machine>(
    machine: M,
    from: &[f32],
    stride: usize,
    [rows, cols]: [usize; 2],
    wide: usize,
    to: &mut [f32],
) {
    let lanes = M::LANES;
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

/// Numbers that [`pack_rows`] moves at once, a power of two. The next index overwrites the surplus.
const MOVED: usize = 8;

/// Length of a group of rows, including the surplus after the last index.
pub(super) const fn group_len(depth: usize) -> usize {
    depth * ROWS + MOVED - ROWS
}

/// Packs rows `row..row + rows` of the column-major `a` at `depth` inner indices, starting at `first`, into groups of [`ROWS`] rows.
/// Zeros pad the last group. A group stores one inner index after another and has [`group_len`] numbers.
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
