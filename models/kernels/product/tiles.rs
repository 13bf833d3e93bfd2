//! Computes a product of pairs of bf16 as tiles in vector registers, by `vdpbf16ps`.
//!
//! The loops follow BLIS (Van Zee and van de Geijn 2015), transposed so that a vector holds neighbours in a row of the result:
//!
//! - The inner size is split into equal chunks of at most [`DEPTH`]. Each chunk is added to the result before the next one.
//! - The right operand's columns are packed into panels as wide as a tile, as many at a time as fit the L2 cache, or were packed before.
//! - Each group of [`ROWS`] rows of the left operand is multiplied with all panels. Rows are read in place, or, if the inner index counts
//!   rows in memory, packed once per chunk.
//!
//! Every number of the result is one chain of fused additions per chunk, in the order of the inner index. Tiles, panels and packing change
//! no byte.

use std::arch::x86_64::_MM_HINT_ET0;
use std::array::from_fn;
use std::cell::RefCell;

use pulp::Simd;
use pulp::x86::V4;

use super::lines::Lines;
use super::matrix::{Job, Start};
use super::pack::{group_len, pack_columns, pack_rows};
use super::side::Side;
use super::x86::{LANES, Lanes, Pairs, ROWS, WIDTH, fetch};

/// Maximum number of inner lanes of a chunk.
const DEPTH: usize = 512;
/// Approximate size of the packed panels in lanes (384 KiB). With 640 KiB, products were 1 % slower at an L2 cache of 1 MiB (BENCHMARKS.md).
const BLOCK: usize = 96 << 10;
/// Minimum number of inner lanes at which the destination is prefetched.
const FAR: usize = 128;

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
    let division = Division::of(size);
    // Only the last panel of a chunk is padded.
    let packed = packed.of(inner * cols.next_multiple_of(LANES));
    machine.vectorize(
        #[inline(always)]
        || {
            let mut at = 0;
            for first in (0..inner).step_by(division.depth) {
                for column in (0..cols).step_by(division.block) {
                    let chunk = division.chunk(size, first, column);
                    let panels = &mut packed[at..][..chunk.len()];
                    let (inner, columns) = ((first, chunk.depth), (column, chunk.cols));
                    pack_columns(machine, b, inner, columns, panels);
                    at += chunk.len();
                }
            }
        },
    );
}

/// How the right operand is divided: the inner size of a chunk, and the columns that are packed at a time.
#[derive(Clone, Copy)]
struct Division {
    depth: usize,
    block: usize,
}

impl Division {
    #[inline(always)]
    fn of([inner, cols]: [usize; 2]) -> Self {
        let depth = inner.div_ceil(inner.div_ceil(DEPTH));
        let blocks = cols.div_ceil((BLOCK / depth).max(WIDTH));
        let block = cols.div_ceil(blocks).next_multiple_of(WIDTH);
        Self { depth, block }
    }

    #[inline(always)]
    fn chunk(self, [inner, cols]: [usize; 2], first: usize, column: usize) -> Chunk {
        Chunk {
            first,
            depth: self.depth.min(inner - first),
            column,
            cols: self.block.min(cols - column),
        }
    }
}

#[inline(always)]
fn over_chunks(
    machine: Pairs,
    job: &Job<'_, Side<'_>>,
    mut packed: Option<&[f32]>,
    [panels, groups]: &mut Spaces,
) {
    let size @ [inner, cols] = [job.a.inner(), job.b.outer()];
    let division = Division::of(size);
    let rows_to_pack = match job.a.inner_counts_rows {
        true => job.a.outer(),
        false => 0,
    };
    let groups = groups.of(rows_to_pack.div_ceil(ROWS) * group_len(division.depth));
    for first in (0..inner).step_by(division.depth) {
        if rows_to_pack > 0 {
            let depth = division.depth.min(inner - first);
            pack_rows(job.a, (first, depth), rows_to_pack, groups);
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
                    let (inner, columns) = ((first, chunk.depth), (column, chunk.cols));
                    pack_columns(machine, job.b, inner, columns, panels);
                    &*panels
                }
            };
            over_rows(machine, job, chunk, panels, groups);
        }
    }
}

/// A chunk of the inner size and a range of packed columns.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    depth: usize,
    column: usize,
    cols: usize,
}

impl Chunk {
    /// Size of its packed columns.
    #[inline(always)]
    fn len(self) -> usize {
        self.depth * self.cols.next_multiple_of(LANES)
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
            4 => tile.make::<4>(machine, job, panel, chunk.depth, left),
            3 => tile.make::<3>(machine, job, panel, chunk.depth, left),
            2 => tile.make::<2>(machine, job, panel, chunk.depth, left),
            _ => tile.make::<1>(machine, job, panel, chunk.depth, left),
        }
    }
}

/// A tile's position and size in the result.
#[derive(Clone, Copy)]
struct Tile {
    row: usize,
    rows: usize,
    column: usize,
    cols: usize,
    /// Whether this is the first chunk.
    starts: bool,
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

impl Tile {
    #[inline(always)]
    fn make<const V: usize>(
        self,
        machine: Pairs,
        job: &Job<'_, Side<'_>>,
        panel: &[f32],
        depth: usize,
        left: impl Left,
    ) {
        if depth >= FAR {
            for row in self.row..self.row + self.rows {
                let at = job.out.wrapping_add(row * job.stride + self.column);
                fetch::<_MM_HINT_ET0>(at, V * LANES);
            }
        }
        let (panel, _) = V4::as_simd_f32s(&panel[..depth * V * LANES]);
        let sums = left.sums::<V>(machine, panel.as_chunks().0);
        for (row, sums) in (self.row..self.row + self.rows).zip(&sums) {
            self.put(machine.f32(), job, row, sums);
        }
    }

    /// Writes the tile's part of a row of the result.
    #[inline(always)]
    fn put(self, simd: V4, job: &Job<'_, Side<'_>>, row: usize, sums: &[Lanes]) {
        let at = row * job.stride + self.column;
        #[expect(unsafe_code, reason = "the destination need not be initialised")]
        // SAFETY: `row` and the tile's columns lie inside the job's, which its creator declares valid. They are read only after the
        // first chunk has written them, or if the creator declares them readable.
        let out = unsafe { std::slice::from_raw_parts_mut(job.out.add(at), self.cols) };
        let out = out.chunks_mut(LANES).zip(sums);
        let factor = simd.splat_f32s(job.factor);
        let columns = self.column..self.column + self.cols;
        let start = match self.starts {
            true => job.start,
            false => Start::There,
        };
        match start {
            Start::Zero => {
                for (out, sum) in out {
                    store(simd, out, simd.mul_f32s(factor, *sum));
                }
            }
            Start::There => {
                for (out, sum) in out {
                    let begin = load(simd, out);
                    store(simd, out, simd.mul_add_f32s(factor, *sum, begin));
                }
            }
            Start::Row(bias) => {
                for ((out, sum), bias) in out.zip(bias[columns].chunks(LANES)) {
                    let begin = load(simd, bias);
                    store(simd, out, simd.mul_add_f32s(factor, *sum, begin));
                }
            }
            Start::Sum(x, bias) => {
                let x = x[row * job.b.outer() + self.column..].chunks(LANES);
                for (((out, sum), bias), x) in out.zip(bias[columns].chunks(LANES)).zip(x) {
                    // The last vector of `x` may go beyond the tile.
                    let begin = load(simd, &x[..bias.len()]);
                    let begin = simd.add_f32s(begin, load(simd, bias));
                    store(simd, out, simd.mul_add_f32s(factor, *sum, begin));
                }
            }
        }
    }
}

/// Loads up to one vector of numbers, padded with zeros.
#[inline(always)]
fn load(simd: V4, from: &[f32]) -> Lanes {
    match V4::as_simd_f32s(from) {
        ([whole], _) => *whole,
        (_, part) => simd.partial_load_f32s(part),
    }
}

/// Stores as many numbers as fit.
#[inline(always)]
fn store(simd: V4, to: &mut [f32], numbers: Lanes) {
    match V4::as_mut_simd_f32s(to) {
        ([whole], _) => *whole = numbers,
        (_, part) => simd.partial_store_f32s(part, numbers),
    }
}
