//! Computes rows of a result in tiles of 32 x 32 by AMX.
//!
//! Rows of the left operand are read in place where the inner index does not count rows in memory and all 32 rows and whole tile registers
//! of it lie there. Others are packed once per chunk, with zeros beyond.

use pulp::Simd;
use pulp::x86::V4;

use super::amx::{INNER, Rows, SIDE, Sums, Unit};
use super::division::Chunk;
use super::matrix::Job;
use super::side::Side;
use super::tile::Tile;
use super::x86::{LANES, Pairs, WIDTH};

/// Returns the first of the left operand's rows that is packed in a chunk of `depth` inner lanes.
#[inline(always)]
fn first_packed(a: Side<'_>, depth: usize) -> usize {
    match a.inner_counts_rows || !depth.is_multiple_of(INNER) {
        true => 0,
        false => a.outer() - a.outer() % SIDE,
    }
}

/// Returns the number of lanes that [`pack`] writes at most, if `depth` is the size of all chunks of the left operand but the last.
#[inline(always)]
pub(super) fn packed_len(a: Side<'_>, depth: usize) -> usize {
    let last = a.inner() % depth;
    let rows = a.outer() - first_packed(a, last);
    rows.next_multiple_of(SIDE) * depth
}

/// Packs the rows of the left operand `a` at `depth` inner lanes, starting at `first`, that cannot be read in place. Groups of 32 rows
/// follow each other, and in a group its rows.
#[inline(always)]
pub(super) fn pack(
    machine: Pairs,
    a: Side<'_>,
    (first, depth): (usize, usize),
    groups: &mut [f32],
) {
    let padded = depth.next_multiple_of(INNER);
    let rows = (first_packed(a, depth)..a.outer()).step_by(SIDE);
    for (row, group) in rows.zip(groups.chunks_exact_mut(SIDE * padded)) {
        let rows = SIDE.min(a.outer() - row);
        match a.inner_counts_rows {
            true => turn(machine, a, (first, depth), (row, rows), group),
            false => {
                for (at, to) in group.chunks_exact_mut(padded).enumerate() {
                    let wide = if at < rows { depth } else { 0 };
                    let (to, beyond) = to.split_at_mut(wide);
                    if wide > 0 {
                        to.copy_from_slice(&a.lanes()[(row + at) * a.stride + first..][..wide]);
                    }
                    beyond.fill(0.0);
                }
            }
        }
    }
}

/// Writes a group of rows of `a`, whose inner index counts rows in memory.
#[inline(always)]
fn turn(
    machine: Pairs,
    a: Side<'_>,
    (first, depth): (usize, usize),
    (row, rows): (usize, usize),
    group: &mut [f32],
) {
    let padded = depth.next_multiple_of(INNER);
    for at in (0..padded).step_by(INNER) {
        let mut columns = [0.0; INNER * SIDE];
        let inner = first + at..first + depth.min(at + INNER);
        for (index, to) in inner.zip(columns.chunks_exact_mut(SIDE)) {
            a.joined(index, row, &mut to[..rows.next_multiple_of(2)]);
        }
        for half in [0, INNER] {
            let to = &mut group[half * padded + at..];
            machine.transpose(&columns[half..], SIDE, to, padded);
        }
    }
}

/// Multiplies all rows of the left operand with the packed columns of `chunk`. `groups` are the rows from [`pack`].
#[inline(always)]
pub(super) fn over_rows(
    (machine, unit): (Pairs, Unit),
    job: &Job<'_, Side<'_>>,
    chunk: Chunk,
    panels: &[f32],
    groups: &[f32],
) {
    let (a, padded) = (job.a, chunk.padded);
    let packed = first_packed(a, chunk.depth);
    let mut sums = Sums([[0.0; SIDE]; SIDE]);
    for row in (0..a.outer()).step_by(SIDE) {
        let left = match row < packed {
            true => Rows {
                lanes: &a.lanes()[row * a.stride + chunk.first..],
                stride: a.stride,
            },
            false => Rows {
                lanes: &groups[(row - packed) * padded..],
                stride: padded,
            },
        };
        for at in (0..chunk.cols).step_by(LANES * 2) {
            let panel = at / WIDTH * WIDTH;
            let wide = WIDTH.min(chunk.cols - panel).next_multiple_of(LANES);
            let right = Rows {
                lanes: &panels[panel * padded..][..padded * wide],
                stride: wide,
            };
            // The last tile may have one vector, which is then multiplied twice.
            let columns = [0, LANES].map(|second| (at - panel + second).min(wide - LANES));
            let tile = Tile {
                row,
                rows: SIDE.min(a.outer() - row),
                column: chunk.column + at,
                cols: (2 * LANES).min(chunk.cols - at),
                starts: chunk.first == 0,
            };
            tile.fetch(job, padded);
            unit.sums(left, right, columns, padded, &mut sums);
            for (row, sums) in (row..row + tile.rows).zip(&sums.0) {
                tile.put(machine.f32(), job, row, V4::as_simd_f32s(sums).0);
            }
        }
    }
}
