//! Copies parts of an operand in the order in which a tile reads them.

use super::lines::Lines;
use super::side::Side;
use super::x86::{LANES, Pairs, ROWS, WIDTH};

/// Packs columns `column..column + cols` of the right operand `b` at `depth` inner lanes, starting at `first`, into panels as wide as a tile.
/// Zeros pad the last panel to whole vectors. A panel stores one inner lane after another. `row` is memory for a row.
#[inline(always)]
pub(super) fn pack_columns(
    machine: Pairs,
    b: Side<'_>,
    (first, depth): (usize, usize),
    (column, cols): (usize, usize),
    panels: &mut [f32],
    row: &mut Lines,
) {
    if b.inner_counts_rows {
        let row = row.of(cols.next_multiple_of(2));
        for index in 0..depth {
            b.joined(first + index, column, row);
            copy_row(&row[..cols], (index, depth), panels);
        }
        return;
    }
    for at in (0..cols).step_by(WIDTH) {
        let cols = WIDTH.min(cols - at);
        let wide = cols.next_multiple_of(LANES);
        let from = &b.lanes()[(column + at) * b.stride + first..];
        let panel = &mut panels[at * depth..][..depth * wide];
        transpose(machine, from, b.stride, [cols, depth], wide, panel);
    }
}

/// Copies row `index` of `depth` into the panels. Memory is read sequentially.
#[inline(always)]
fn copy_row(row: &[f32], (index, depth): (usize, usize), panels: &mut [f32]) {
    let (whole, rest) = row.split_at(row.len() - row.len() % WIDTH);
    for (from, panel) in whole
        .chunks_exact(WIDTH)
        .zip(panels.chunks_exact_mut(depth * WIDTH))
    {
        panel[index * WIDTH..][..WIDTH].copy_from_slice(from);
    }
    if !rest.is_empty() {
        let wide = rest.len().next_multiple_of(LANES);
        let to = &mut panels[whole.len() * depth + index * wide..][..wide];
        to[..rest.len()].copy_from_slice(rest);
        to[rest.len()..].fill(0.0);
    }
}

/// Transposes `[rows, cols]`, whose rows start every `stride` lanes, into rows of `wide` lanes, and pads with zeros beyond `rows`.
#[inline(always)]
fn transpose(
    machine: Pairs,
    from: &[f32],
    stride: usize,
    [rows, cols]: [usize; 2],
    wide: usize,
    to: &mut [f32],
) {
    for row in (0..wide).step_by(LANES) {
        let whole = match row + LANES <= rows {
            true => cols - cols % LANES,
            false => 0,
        };
        for col in (0..whole).step_by(LANES) {
            let from = &from[row * stride + col..];
            machine.transpose(from, stride, &mut to[col * wide + row..], wide);
        }
        for row in row..row + LANES {
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

/// Lanes that [`pack_rows`] moves at once, a power of two. The next index overwrites the surplus.
const MOVED: usize = 8;

/// Length of a group of rows, including the surplus after the last index.
pub(super) const fn group_len(depth: usize) -> usize {
    depth * ROWS + MOVED - ROWS
}

/// Packs all `rows` of the left operand `a`, whose inner index counts rows in memory, at `depth` inner lanes, starting at `first`, into groups
/// of [`ROWS`] rows. Zeros pad the last group. A group stores one inner lane after another and has [`group_len`] lanes. `row` is memory for
/// a row.
#[inline(always)]
pub(super) fn pack_rows(
    a: Side<'_>,
    (first, depth): (usize, usize),
    rows: usize,
    groups: &mut [f32],
    row: &mut Lines,
) {
    let column = row.of(rows.next_multiple_of(2));
    for index in 0..depth {
        a.joined(first + index, 0, column);
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
