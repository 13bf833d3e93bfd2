//! Copies parts of an operand in the order in which a tile reads them.

use super::division::Chunk;
use super::side::Side;
use super::x86::{LANES, Pairs, ROWS, WIDTH};

/// Packs the columns of the right operand `b` in `chunk` into panels as wide as a tile. Zeros pad the last panel to whole vectors, and the
/// inner lanes to a whole step. A panel stores one inner lane after another.
#[inline(always)]
pub(super) fn pack_columns(machine: Pairs, b: Side<'_>, chunk: Chunk, panels: &mut [f32]) {
    let Chunk {
        first,
        depth,
        padded,
        column,
        cols,
    } = chunk;
    if b.inner_counts_rows {
        // Memory is read sequentially.
        for index in 0..depth {
            for (at, panel) in (0..cols)
                .step_by(WIDTH)
                .zip(panels.chunks_mut(padded * WIDTH))
            {
                let cols = WIDTH.min(cols - at);
                let wide = cols.next_multiple_of(LANES);
                let to = &mut panel[index * wide..][..wide];
                let (to, beyond) = to.split_at_mut(cols.next_multiple_of(2));
                b.joined(first + index, column + at, to);
                beyond.fill(0.0);
            }
        }
    }
    for (at, panel) in (0..cols)
        .step_by(WIDTH)
        .zip(panels.chunks_mut(padded * WIDTH))
    {
        let cols = WIDTH.min(cols - at);
        let wide = cols.next_multiple_of(LANES);
        let (panel, beyond) = panel[..padded * wide].split_at_mut(depth * wide);
        beyond.fill(0.0);
        if !b.inner_counts_rows {
            let from = &b.lanes()[(column + at) * b.stride + first..];
            transpose(machine, from, b.stride, [cols, depth], wide, panel);
        }
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

/// Returns the number of lanes of all groups of rows of the left operand `a`, or zero if they are read in place.
pub(super) fn packed_len(a: Side<'_>, depth: usize) -> usize {
    match a.inner_counts_rows {
        true => a.outer().div_ceil(ROWS) * group_len(depth),
        false => 0,
    }
}

/// Rows that [`pack_rows`] joins at a time. The lines that it writes in turn, one or two of each group, stay in the L1 cache.
const BLOCK: usize = 64 * ROWS;

/// Packs all rows of the left operand `a`, whose inner index counts rows in memory, at `depth` inner lanes, starting at `first`, into groups
/// of [`ROWS`] rows. Zeros pad the last group. A group stores one inner lane after another and has [`group_len`] lanes.
#[inline(always)]
pub(super) fn pack_rows(a: Side<'_>, (first, depth): (usize, usize), groups: &mut [f32]) {
    let (len, rows) = (group_len(depth), a.outer());
    for (at, groups) in (0..rows)
        .step_by(BLOCK)
        .zip(groups.chunks_mut(BLOCK / ROWS * len))
    {
        let mut column = [0.0; BLOCK + MOVED - ROWS];
        let joined = BLOCK.min(rows - at).next_multiple_of(2);
        for index in 0..depth {
            a.joined(first + index, at, &mut column[..joined]);
            for (group, from) in groups.chunks_exact_mut(len).zip((0..joined).step_by(ROWS)) {
                group[index * ROWS..][..MOVED].copy_from_slice(&column[from..][..MOVED]);
            }
        }
    }
}
