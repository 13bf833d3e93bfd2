//! Computes a product of pairs of bf16 as tiles in vector registers, by `vdpbf16ps`, or in tile registers ([`squares`]).
//!
//! The loops follow BLIS (Van Zee and van de Geijn 2015), transposed so that a vector holds neighbours in a row of the result:
//!
//! - The inner size is split into equal chunks. Each chunk is added to the result before the next one.
//! - The right operand's columns are packed into panels as wide as a tile, as many at a time as fit the L2 cache, or were packed before.
//! - Each group of [`ROWS`] rows of the left operand is multiplied with all panels. Rows are read in place, or, if the inner index counts
//!   rows in memory, packed once per chunk.
//!
//! By `vdpbf16ps`, every number of the result is one chain of fused additions per chunk, in the order of the inner index. Tile registers have
//! two chains for every 16 lanes. Tiles, panels and packing change no byte.

use std::array::from_fn;
use std::cell::RefCell;

use pulp::Simd;
use pulp::x86::V4;

use super::division::{Chunk, Division};
use super::lines::Lines;
use super::matrix::Job;
use super::pack::{group_len, pack_columns, pack_rows, packed_len};
use super::side::Side;
use super::squares;
use super::tile::Tile;
use super::x86::{LANES, Lanes, Pairs, ROWS, WIDTH};

/// Memory for panels of the right operand, and for groups of rows of the left one.
type Spaces = [Lines; 2];

thread_local! {
    static SPACES: RefCell<Spaces> = RefCell::default();
}

/// Runs `job`. `packed` is the right operand from [`pack`], or `None` to pack it here.
pub(super) fn run(machine: Pairs, job: &Job<'_, Side<'_>>, packed: Option<&[f32]>) {
    // The borrow stays outside, because code inside a closure of the standard library is compiled for the baseline.
    SPACES.with_borrow_mut(|spaces| {
        machine.vectorize(
            #[inline(always)]
            || over_chunks(machine, job, packed, spaces),
        );
    });
}

/// Packs the whole right operand `b` into `packed`: all blocks of columns of the first chunk, then those of the next.
pub(super) fn pack(machine: Pairs, b: Side<'_>, packed: &mut Lines) {
    let size @ [inner, cols] = [b.inner(), b.outer()];
    let division = Division::of(machine, size);
    let packed = packed.of(division.len(size));
    machine.vectorize(
        #[inline(always)]
        || {
            let mut at = 0;
            for first in (0..inner).step_by(division.depth) {
                for column in (0..cols).step_by(division.block) {
                    let chunk = division.chunk(size, first, column);
                    let panels = &mut packed[at..][..chunk.len()];
                    pack_columns(machine, b, chunk, panels);
                    at += chunk.len();
                }
            }
        },
    );
}

#[inline(always)]
fn over_chunks(
    machine: Pairs,
    job: &Job<'_, Side<'_>>,
    mut packed: Option<&[f32]>,
    [panels, groups]: &mut Spaces,
) {
    let size @ [inner, cols] = [job.a.inner(), job.b.outer()];
    let division = Division::of(machine, size);
    let unit = machine.unit();
    let groups = groups.of(match unit {
        Some(_) => squares::packed_len(job.a, division.depth),
        None => packed_len(job.a, division.depth),
    });
    for first in (0..inner).step_by(division.depth) {
        let lanes = (first, division.depth.min(inner - first));
        match unit {
            Some(_) => squares::pack(machine, job.a, lanes, groups),
            None if job.a.inner_counts_rows => pack_rows(job.a, lanes, groups),
            None => {}
        }
        for column in (0..cols).step_by(division.block) {
            let chunk = division.chunk(size, first, column);
            let panels = match &mut packed {
                Some(rest) => {
                    let (panels, after) = rest.split_at(chunk.len());
                    *rest = after;
                    panels
                }
                None => {
                    let panels = panels.of(chunk.len());
                    pack_columns(machine, job.b, chunk, panels);
                    &*panels
                }
            };
            match unit {
                Some(unit) => squares::over_rows((machine, unit), job, chunk, panels, groups),
                None => over_rows(machine, job, chunk, panels, groups),
            }
        }
    }
}

#[inline(always)]
fn over_rows(
    machine: Pairs,
    job: &Job<'_, Side<'_>>,
    chunk: Chunk,
    panels: &[f32],
    groups: &[f32],
) {
    let (a, all) = (job.a, job.a.outer());
    let Chunk { first, depth, .. } = chunk;
    for row in (0..all).step_by(ROWS) {
        let rows = ROWS.min(all - row);
        if a.inner_counts_rows {
            let group = &groups[row / ROWS * group_len(depth)..][..ROWS * depth];
            let left = Packed(group.as_chunks().0);
            over_columns(machine, job, chunk, (row, rows), panels, left);
        } else {
            // The last tile repeats the last row, so that every tile has the same size.
            let left: [&[f32]; ROWS] = from_fn(
                #[inline(always)]
                |i| &a.lanes()[(row + i).min(all - 1) * a.stride + first..][..depth],
            );
            over_columns(machine, job, chunk, (row, rows), panels, InRows(left));
        }
    }
}

#[inline(always)]
fn over_columns(
    machine: Pairs,
    job: &Job<'_, Side<'_>>,
    chunk: Chunk,
    (row, rows): (usize, usize),
    panels: &[f32],
    left: impl Left,
) {
    for at in (0..chunk.cols).step_by(WIDTH) {
        let cols = WIDTH.min(chunk.cols - at);
        let panel = &panels[at * chunk.depth..];
        let tile = Tile {
            row,
            rows,
            column: chunk.column + at,
            cols,
            starts: chunk.first == 0,
        };
        match cols.div_ceil(LANES) {
            4 => make::<4>(tile, machine, job, panel, chunk.depth, left),
            3 => make::<3>(tile, machine, job, panel, chunk.depth, left),
            2 => make::<2>(tile, machine, job, panel, chunk.depth, left),
            _ => make::<1>(tile, machine, job, panel, chunk.depth, left),
        }
    }
}

/// [`ROWS`] rows of the left operand.
trait Left: Copy {
    /// Returns the rows' sums over a panel of `V` vectors per inner index.
    fn sums<const V: usize>(self, machine: Pairs, panel: &[[Lanes; V]]) -> TileSums<V>;
}

type TileSums<const V: usize> = [[Lanes; V]; ROWS];

/// Rows in place.
#[derive(Clone, Copy)]
struct InRows<'a>([&'a [f32]; ROWS]);

/// Packed rows, one inner index after another.
#[derive(Clone, Copy)]
struct Packed<'a>(&'a [[f32; ROWS]]);

#[inline(always)]
fn add<const V: usize>(machine: Pairs, x: [f32; ROWS], panel: &[Lanes; V], sums: &mut TileSums<V>) {
    // Unrolled by hand: the compiler keeps the sums of a loop in memory.
    add_row(machine, x[0], panel, &mut sums[0]);
    add_row(machine, x[1], panel, &mut sums[1]);
    add_row(machine, x[2], panel, &mut sums[2]);
    add_row(machine, x[3], panel, &mut sums[3]);
    add_row(machine, x[4], panel, &mut sums[4]);
    add_row(machine, x[5], panel, &mut sums[5]);
}

#[inline(always)]
fn add_row<const V: usize>(machine: Pairs, x: f32, panel: &[Lanes; V], sums: &mut [Lanes; V]) {
    let x = machine.f32().splat_f32s(x);
    for (sum, b) in sums.iter_mut().zip(panel) {
        *sum = machine.add_product(x, *b, *sum);
    }
}

impl Left for InRows<'_> {
    #[inline(always)]
    fn sums<const V: usize>(self, machine: Pairs, panel: &[[Lanes; V]]) -> TileSums<V> {
        let mut sums = [[machine.f32().splat_f32s(0.0); V]; ROWS];
        let [a, b, c, d, e, f] = self.0;
        // The zip avoids bounds checks inside the loop.
        let all = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f).zip(panel);
        for ((((((a, b), c), d), e), f), panel) in all {
            add(machine, [*a, *b, *c, *d, *e, *f], panel, &mut sums);
        }
        sums
    }
}

impl Left for Packed<'_> {
    #[inline(always)]
    fn sums<const V: usize>(self, machine: Pairs, panel: &[[Lanes; V]]) -> TileSums<V> {
        let mut sums = [[machine.f32().splat_f32s(0.0); V]; ROWS];
        for (x, panel) in self.0.iter().zip(panel) {
            add(machine, *x, panel, &mut sums);
        }
        sums
    }
}

#[inline(always)]
fn make<const V: usize>(
    tile: Tile,
    machine: Pairs,
    job: &Job<'_, Side<'_>>,
    panel: &[f32],
    depth: usize,
    left: impl Left,
) {
    tile.fetch(job, depth);
    let (panel, _) = V4::as_simd_f32s(&panel[..depth * V * LANES]);
    let sums = left.sums::<V>(machine, panel.as_chunks().0);
    for (row, sums) in (tile.row..tile.row + tile.rows).zip(&sums) {
        tile.put(machine.f32(), job, row, sums);
    }
}
