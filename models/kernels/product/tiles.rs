//! Computes a product as tiles in vector registers, on x86-64 with FMA.
//!
//! The loops follow BLIS (Van Zee and van de Geijn 2015), transposed so that a vector holds neighbours in a row of the result:
//!
//! - The inner size is split into equal chunks of at most [`DEPTH`]. Each chunk is added to the result before the next one.
//! - The right operand's columns are packed into panels as wide as a tile, as many at a time as fit the L2 cache.
//! - Each group of [`ROWS`] rows of the left operand is multiplied with all panels. Rows are read in place or, if strided, packed once per
//!   chunk.
//!
//! Every number of the result is one chain of fused multiply-adds per chunk, in the order of the inner index. Tiles, panels and
//! vector width change no byte.

use std::arch::x86_64::_MM_HINT_ET0;
use std::array::from_fn;
use std::cell::RefCell;

use pulp::Simd;

use super::lines::Lines;
use super::machine::{Lanes, Machine, ROWS, Work};
use super::matrix::{Job, Mat, Start};
use super::pack::{group_len, pack_columns, pack_rows};
use super::x86::fetch;

/// Maximum inner size of a chunk. `gemm` uses the same size, so both give the same bytes.
const DEPTH: usize = 512;
/// Approximate size of the packed panels in numbers (640 KiB).
const BLOCK: usize = 160 << 10;
/// Minimum inner size at which the destination is prefetched.
const FAR: usize = 128;

/// Returns whether tiles are used. `gemm` treats small results, vectors and short sums specially.
pub(super) fn fits(a: Mat<'_>, b: Mat<'_>) -> bool {
    let (rows, inner, cols) = (a.rows, a.cols, b.cols);
    let small = rows <= 64 && cols <= 64;
    rows > 1 && cols > 1 && rows * cols > 256 && inner > 2 && (inner <= DEPTH || !small)
}

thread_local! {
    /// Packed panels and packed rows.
    static BUFFERS: RefCell<[Lines; 2]> = RefCell::default();
}

/// Runs `job` on `machine`.
pub(super) fn run<M: Machine>(machine: M, job: &Job<'_>) {
    // The borrow stays outside, because code inside a closure of the standard library is compiled for the baseline.
    BUFFERS.with_borrow_mut(|[panels, rows]| {
        machine.vectorize(Run {
            job,
            machine,
            panels,
            rows,
        });
    });
}

struct Run<'a, M> {
    job: &'a Job<'a>,
    machine: M,
    panels: &'a mut Lines,
    rows: &'a mut Lines,
}

impl<M: Machine> Work for Run<'_, M> {
    #[inline(always)]
    fn work(self) {
        over_chunks(self.machine, self.job, self.panels, self.rows);
    }
}

/// Packs the whole right operand `b` on `machine` into `packed`: all blocks of columns of the first chunk, then those of the next.
pub(super) fn pack<M: Machine>(machine: M, b: Mat<'_>, packed: &mut Lines) {
    let len = Division::of::<M>(b.rows, b.cols).len::<M>(b.rows, b.cols);
    let packed = packed.of(len);
    machine.vectorize(Pack { b, machine, packed });
}

struct Pack<'a, M> {
    b: Mat<'a>,
    machine: M,
    packed: &'a mut [f32],
}

impl<M: Machine> Work for Pack<'_, M> {
    #[inline(always)]
    fn work(self) {
        let Self { b, machine, packed } = self;
        let mut rest = packed;
        let division = Division::of::<M>(b.rows, b.cols);
        for first in (0..b.rows).step_by(division.depth) {
            for column in (0..b.cols).step_by(division.block) {
                let chunk = division.chunk([b.rows, b.cols], first, column);
                let (panels, after) = rest.split_at_mut(chunk.len::<M>());
                pack_columns(
                    machine,
                    b,
                    (first, chunk.depth),
                    (column, chunk.cols),
                    panels,
                );
                rest = after;
            }
        }
    }
}

/// How the right operand is divided: the inner size of a chunk, and the columns that are packed at a time.
#[derive(Clone, Copy)]
struct Division {
    depth: usize,
    block: usize,
}

impl Division {
    #[inline(always)]
    fn of<M: Machine>(inner: usize, cols: usize) -> Self {
        let width = M::COUNT * M::LANES;
        let depth = inner.div_ceil(inner.div_ceil(DEPTH));
        let blocks = cols.div_ceil((BLOCK / depth).max(width));
        let block = cols.div_ceil(blocks).next_multiple_of(width);
        Self { depth, block }
    }

    /// Size of the whole operand when packed: only the last panel of a chunk is padded.
    fn len<M: Machine>(self, inner: usize, cols: usize) -> usize {
        inner * cols.next_multiple_of(M::LANES)
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
fn over_chunks<M: Machine>(machine: M, job: &Job<'_>, panels: &mut Lines, packed: &mut Lines) {
    let size @ [inner, cols] = [job.a.cols, job.b.cols];
    let division = Division::of::<M>(inner, cols);
    let panels = panels.of(match job.packed {
        None => division.block * division.depth,
        Some(_) => 0,
    });
    let (row, rows) = packed_rows::<M>(job);
    let packed = packed.of(rows.div_ceil(ROWS) * group_len(division.depth));
    let mut ready = job.packed;
    for first in (0..inner).step_by(division.depth) {
        if rows > 0 {
            let depth = division.depth.min(inner - first);
            pack_rows(job.a, (first, depth), (row, rows), packed);
        }
        for column in (0..cols).step_by(division.block) {
            let chunk = division.chunk(size, first, column);
            let panels = match &mut ready {
                Some(rest) => {
                    let (panels, after) = rest.split_at(chunk.len::<M>());
                    *rest = after;
                    panels
                }
                None => {
                    let columns = (column, chunk.cols);
                    pack_columns(machine, job.b, (first, chunk.depth), columns, panels);
                    &*panels
                }
            };
            over_rows(machine, job, chunk, panels, packed);
        }
    }
}

/// Returns the first row of the left operand to pack, and how many. Rows in which the inner index is contiguous are read in place. Packing the
/// others once for all columns pays if several tiles use a row; otherwise only an incomplete tile's rows are packed.
#[inline(always)]
fn packed_rows<M: Machine>(job: &Job<'_>) -> (usize, usize) {
    let rows = job.a.rows;
    match (job.a.col_stride, job.b.cols <= 2 * M::COUNT * M::LANES) {
        (1, _) => (rows, 0),
        (_, true) => (rows - rows % ROWS, rows % ROWS),
        (_, false) => (0, rows),
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
    fn len<M: Machine>(self) -> usize {
        self.depth * self.cols.next_multiple_of(M::LANES)
    }
}

#[inline(always)]
fn over_rows<M: Machine>(machine: M, job: &Job<'_>, chunk: Chunk, panels: &[f32], packed: &[f32]) {
    let a = job.a;
    let Chunk { first, depth, .. } = chunk;
    let (first_packed, _) = packed_rows::<M>(job);
    for row in (0..a.rows).step_by(ROWS) {
        let rows = ROWS.min(a.rows - row);
        if a.col_stride == 1 {
            // The last tile repeats the last row, so that every tile has the same size.
            let left: [&[f32]; ROWS] = from_fn(
                #[inline(always)]
                |i| &a.data[(row + i).min(a.rows - 1) * a.row_stride + first..][..depth],
            );
            over_columns(machine, job, chunk, (row, rows), panels, InRows(left));
        } else if row < first_packed {
            let left = InColumns(&a.data[first * a.col_stride + row..], a.col_stride);
            over_columns(machine, job, chunk, (row, rows), panels, left);
        } else {
            let group = (row - first_packed) / ROWS * group_len(depth);
            let group = &packed[group..][..ROWS * depth];
            let left = Packed(group.as_chunks().0);
            over_columns(machine, job, chunk, (row, rows), panels, left);
        }
    }
}

#[inline(always)]
fn over_columns<M: Machine>(
    machine: M,
    job: &Job<'_>,
    chunk: Chunk,
    (row, rows): (usize, usize),
    panels: &[f32],
    left: impl Left,
) {
    let width = M::COUNT * M::LANES;
    for at in (0..chunk.cols).step_by(width) {
        let cols = width.min(chunk.cols - at);
        let panel = &panels[at * chunk.depth..];
        let tile = Tile {
            row,
            rows,
            column: chunk.column + at,
            cols,
            starts: chunk.first == 0,
        };
        match cols.div_ceil(M::LANES) {
            4 if M::COUNT >= 4 => tile.make::<M, 4>(machine, job, panel, chunk.depth, left),
            3 if M::COUNT >= 3 => tile.make::<M, 3>(machine, job, panel, chunk.depth, left),
            2 => tile.make::<M, 2>(machine, job, panel, chunk.depth, left),
            _ => tile.make::<M, 1>(machine, job, panel, chunk.depth, left),
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
    fn sums<M: Machine, const V: usize>(
        self,
        machine: M,
        panel: &[[Lanes<M>; V]],
    ) -> TileSums<M, V>;
}

type TileSums<M, const V: usize> = [[Lanes<M>; V]; ROWS];

/// Rows in place.
#[derive(Clone, Copy)]
struct InRows<'a>([&'a [f32]; ROWS]);

/// Packed rows, one inner index after another.
#[derive(Clone, Copy)]
struct Packed<'a>(&'a [[f32; ROWS]]);

/// Columns in place: an inner index every `self.1` numbers.
#[derive(Clone, Copy)]
struct InColumns<'a>(&'a [f32], usize);

#[inline(always)]
fn add<M: Machine, const V: usize>(
    machine: M,
    x: [f32; ROWS],
    panel: &[Lanes<M>; V],
    sums: &mut TileSums<M, V>,
) {
    // Unrolled by hand: the compiler keeps the sums of a loop in memory.
    add_row(machine, x[0], panel, &mut sums[0]);
    add_row(machine, x[1], panel, &mut sums[1]);
    add_row(machine, x[2], panel, &mut sums[2]);
    add_row(machine, x[3], panel, &mut sums[3]);
    add_row(machine, x[4], panel, &mut sums[4]);
    add_row(machine, x[5], panel, &mut sums[5]);
}

#[inline(always)]
fn add_row<M: Machine, const V: usize>(
    machine: M,
    x: f32,
    panel: &[Lanes<M>; V],
    sums: &mut [Lanes<M>; V],
) {
    let x = machine.vectors().splat_f32s(x);
    for (sum, b) in sums.iter_mut().zip(panel) {
        *sum = machine.add_product(x, *b, *sum);
    }
}

impl Left for InRows<'_> {
    #[inline(always)]
    fn sums<M: Machine, const V: usize>(
        self,
        machine: M,
        panel: &[[Lanes<M>; V]],
    ) -> TileSums<M, V> {
        let mut sums = [[machine.vectors().splat_f32s(0.0); V]; ROWS];
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
    fn sums<M: Machine, const V: usize>(
        self,
        machine: M,
        panel: &[[Lanes<M>; V]],
    ) -> TileSums<M, V> {
        let mut sums = [[machine.vectors().splat_f32s(0.0); V]; ROWS];
        for (x, panel) in self.0.iter().zip(panel) {
            add(machine, *x, panel, &mut sums);
        }
        sums
    }
}

impl Left for InColumns<'_> {
    #[inline(always)]
    fn sums<M: Machine, const V: usize>(
        self,
        machine: M,
        panel: &[[Lanes<M>; V]],
    ) -> TileSums<M, V> {
        let mut sums = [[machine.vectors().splat_f32s(0.0); V]; ROWS];
        for (x, panel) in self.0.chunks(self.1).zip(panel) {
            let Some(x) = x.first_chunk::<ROWS>() else {
                unreachable!("a whole tile lies in the operand")
            };
            add(machine, *x, panel, &mut sums);
        }
        sums
    }
}

impl Tile {
    #[inline(always)]
    fn make<M: Machine, const V: usize>(
        self,
        machine: M,
        job: &Job<'_>,
        panel: &[f32],
        depth: usize,
        left: impl Left,
    ) {
        if depth >= FAR {
            for row in self.row..self.row + self.rows {
                let at = job.out.wrapping_add(row * job.stride + self.column);
                fetch::<_MM_HINT_ET0>(at, V * M::LANES);
            }
        }
        let (panel, _) = M::Vectors::as_simd_f32s(&panel[..depth * V * M::LANES]);
        let sums = left.sums::<M, V>(machine, panel.as_chunks().0);
        let simd = machine.vectors();
        let factor = simd.splat_f32s(job.factor);
        for (i, sums) in sums.iter().enumerate().take(self.rows) {
            for (v, sum) in sums.iter().enumerate() {
                self.put(simd, job, (i, v * M::LANES), factor, *sum);
            }
        }
    }

    /// Writes the vector that starts at `(row, column)` of the tile.
    #[inline(always)]
    fn put<S: Simd>(
        self,
        simd: S,
        job: &Job<'_>,
        (row, column): (usize, usize),
        factor: S::f32s,
        sum: S::f32s,
    ) {
        let len = S::F32_LANES.min(self.cols - column);
        let (row, column) = (self.row + row, self.column + column);
        #[expect(unsafe_code, reason = "the destination need not be initialised")]
        // SAFETY: `row` and `column + len` lie inside the job's rows and columns, which its creator declares valid. They are
        // read only after the first chunk has written them, or if the creator declares them readable.
        let out =
            unsafe { std::slice::from_raw_parts_mut(job.out.add(row * job.stride + column), len) };
        let start = match self.starts {
            true => job.start,
            false => Start::There,
        };
        let sum = match start {
            Start::Zero => simd.mul_f32s(factor, sum),
            Start::There => simd.mul_add_f32s(factor, sum, load(simd, out)),
            Start::Row(bias) => simd.mul_add_f32s(factor, sum, load(simd, &bias[column..][..len])),
            Start::Sum(x, bias) => {
                let x = load(simd, &x[row * job.b.cols + column..][..len]);
                let begin = simd.add_f32s(x, load(simd, &bias[column..][..len]));
                simd.mul_add_f32s(factor, sum, begin)
            }
        };
        match S::as_mut_simd_f32s(out) {
            ([whole], _) => *whole = sum,
            (_, part) => simd.partial_store_f32s(part, sum),
        }
    }
}

/// Loads up to one vector of numbers, padded with zeros.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from) {
        ([whole], _) => *whole,
        (_, part) => simd.partial_load_f32s(part),
    }
}
