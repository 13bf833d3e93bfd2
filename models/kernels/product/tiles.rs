//! Tiles of a product in vector registers, on x86-64 with FMA.
//!
//! The order is BLIS' (Van Zee and van de Geijn 2015), turned so that a vector holds neighbours in a row of the result:
//!
//! - The inner size is cut into equal chunks of at most [`DEPTH`], each added to the result before the next.
//! - Columns of the right operand are packed in panels as wide as a tile, as many as stay in the second cache.
//! - [`ROWS`] rows of the left operand go over all of them. They are read where they lie, or packed when they lie in columns.
//!
//! Every number of the result is one chain of fused additions per chunk, in the order of the inner index: tiles, panels and
//! the width of vectors change no byte.

use std::arch::x86_64::_MM_HINT_ET0;
use std::array::from_fn;
use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use super::machine::{Machine, ROWS};
use super::matrix::{Mat, Start};
use super::pack::{group_len, pack_columns, pack_rows};
use super::x86::fetch;

/// The inner size of a chunk, at most. `gemm` has the same, which is why its results are these, byte for byte.
const DEPTH: usize = 512;
/// Numbers of packed panels, about: 640 KiB.
const BLOCK: usize = 160 << 10;
/// The inner size from which on the result's place is fetched before it is needed.
const FAR: usize = 128;
/// Rows that are packed at once where they lie in columns: three lines of the cache.
const PACKED: usize = 16 * ROWS;

/// `factor * a b` from what `start` says on.
pub(super) struct Job<'a> {
    pub a: Mat<'a>,
    pub b: Mat<'a>,
    pub factor: f32,
    pub start: Start<'a>,
    /// `a.rows` rows of `b.cols` numbers, valid for writing, and for reading where `start` is [`Start::There`].
    pub out: *mut f32,
    /// Numbers from one row of `out` to the next.
    pub stride: usize,
}

/// Whether tiles are the way: `gemm` has others for small results, vectors and short sums.
pub(super) fn fits(a: Mat<'_>, b: Mat<'_>) -> bool {
    let (rows, inner, cols) = (a.rows, a.cols, b.cols);
    let small = rows <= 64 && cols <= 64;
    rows > 1 && cols > 1 && rows * cols > 256 && inner > 2 && (inner <= DEPTH || !small)
}

thread_local! {
    /// Packed panels, and packed rows.
    static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Runs `job` on `machine`.
pub(super) fn run<M: Machine>(machine: M, job: &Job<'_>) {
    // Borrowed outside: what goes through a closure of the standard library is compiled for the baseline.
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
    panels: &'a mut Vec<f32>,
    rows: &'a mut Vec<f32>,
}

impl<M: Machine> WithSimd for Run<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        over_chunks(self.machine, self.job, self.panels, self.rows);
    }
}

#[inline(always)]
fn over_chunks<M: Machine>(
    machine: M,
    job: &Job<'_>,
    panels: &mut Vec<f32>,
    packed: &mut Vec<f32>,
) {
    let (inner, cols) = (job.a.cols, job.b.cols);
    let width = M::VECTORS * M::F32_LANES;
    let depth = inner.div_ceil(inner.div_ceil(DEPTH));
    let blocks = cols.div_ceil((BLOCK / depth).max(width));
    let block = cols.div_ceil(blocks).next_multiple_of(width);
    grow(panels, block * depth);
    grow(packed, PACKED / ROWS * group_len(depth));
    for first in (0..inner).step_by(depth) {
        let depth = depth.min(inner - first);
        for column in (0..cols).step_by(block) {
            let chunk = Chunk {
                first,
                depth,
                column,
                cols: block.min(cols - column),
            };
            pack_columns(machine, job.b, (first, depth), (column, chunk.cols), panels);
            over_rows(machine, job, chunk, panels, packed);
        }
    }
}

/// Makes `buffer` at least `len` long.
fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

/// A chunk of the inner size, and columns whose panels are packed.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    depth: usize,
    column: usize,
    cols: usize,
}

#[inline(always)]
fn over_rows<M: Machine>(
    machine: M,
    job: &Job<'_>,
    chunk: Chunk,
    panels: &[f32],
    packed: &mut [f32],
) {
    let a = job.a;
    let Chunk { first, depth, .. } = chunk;
    // Packing pays when a row is used for several tiles.
    let few = job.b.cols <= 2 * M::VECTORS * M::F32_LANES;
    for row in (0..a.rows).step_by(ROWS) {
        let rows = ROWS.min(a.rows - row);
        if a.col_stride == 1 {
            // The last tile computes its last row over and over rather than have a size of its own.
            let left: [&[f32]; ROWS] = from_fn(
                #[inline(always)]
                |i| &a.data[(row + i).min(a.rows - 1) * a.row_stride + first..][..depth],
            );
            over_columns(machine, job, chunk, (row, rows), panels, InRows(left));
        } else if few && rows == ROWS {
            let left = InColumns(&a.data[first * a.col_stride + row..], a.col_stride);
            over_columns(machine, job, chunk, (row, rows), panels, left);
        } else {
            let at = if few { 0 } else { row % PACKED };
            if at == 0 {
                let rows = PACKED.min(a.rows - row);
                pack_rows(a, (first, depth), (row, rows), packed);
            }
            let group = &packed[at / ROWS * group_len(depth)..][..ROWS * depth];
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
    let width = M::VECTORS * M::F32_LANES;
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
        match cols.div_ceil(M::F32_LANES) {
            4 if M::VECTORS >= 4 => tile.make::<M, 4>(machine, job, panel, chunk.depth, left),
            3 if M::VECTORS >= 3 => tile.make::<M, 3>(machine, job, panel, chunk.depth, left),
            2 => tile.make::<M, 2>(machine, job, panel, chunk.depth, left),
            _ => tile.make::<M, 1>(machine, job, panel, chunk.depth, left),
        }
    }
}

/// Where a tile lies in the result.
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
    /// Their sums over a panel of `V` vectors per inner index.
    fn sums<S: Simd, const V: usize>(self, simd: S, panel: &[[S::f32s; V]]) -> TileSums<S, V>;
}

type TileSums<S, const V: usize> = [[<S as Simd>::f32s; V]; ROWS];

/// Row by row, in place.
#[derive(Clone, Copy)]
struct InRows<'a>([&'a [f32]; ROWS]);

/// One inner index after the other.
#[derive(Clone, Copy)]
struct Packed<'a>(&'a [[f32; ROWS]]);

/// In place, an inner index every so many numbers.
#[derive(Clone, Copy)]
struct InColumns<'a>(&'a [f32], usize);

#[inline(always)]
fn add<S: Simd, const V: usize>(
    simd: S,
    x: [f32; ROWS],
    panel: &[S::f32s; V],
    sums: &mut TileSums<S, V>,
) {
    // Written out: in a loop the compiler keeps the sums in memory.
    add_row(simd, x[0], panel, &mut sums[0]);
    add_row(simd, x[1], panel, &mut sums[1]);
    add_row(simd, x[2], panel, &mut sums[2]);
    add_row(simd, x[3], panel, &mut sums[3]);
    add_row(simd, x[4], panel, &mut sums[4]);
    add_row(simd, x[5], panel, &mut sums[5]);
}

#[inline(always)]
fn add_row<S: Simd, const V: usize>(
    simd: S,
    x: f32,
    panel: &[S::f32s; V],
    sums: &mut [S::f32s; V],
) {
    let x = simd.splat_f32s(x);
    for (sum, b) in sums.iter_mut().zip(panel) {
        *sum = simd.mul_add_f32s(x, *b, *sum);
    }
}

impl Left for InRows<'_> {
    #[inline(always)]
    fn sums<S: Simd, const V: usize>(self, simd: S, panel: &[[S::f32s; V]]) -> TileSums<S, V> {
        let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
        let [a, b, c, d, e, f] = self.0;
        // Zipped, so that no index is checked within.
        let all = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f).zip(panel);
        for ((((((a, b), c), d), e), f), panel) in all {
            add(simd, [*a, *b, *c, *d, *e, *f], panel, &mut sums);
        }
        sums
    }
}

impl Left for Packed<'_> {
    #[inline(always)]
    fn sums<S: Simd, const V: usize>(self, simd: S, panel: &[[S::f32s; V]]) -> TileSums<S, V> {
        let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
        for (x, panel) in self.0.iter().zip(panel) {
            add(simd, *x, panel, &mut sums);
        }
        sums
    }
}

impl Left for InColumns<'_> {
    #[inline(always)]
    fn sums<S: Simd, const V: usize>(self, simd: S, panel: &[[S::f32s; V]]) -> TileSums<S, V> {
        let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
        for (x, panel) in self.0.chunks(self.1).zip(panel) {
            let Some(x) = x.first_chunk::<ROWS>() else {
                unreachable!("a whole tile lies in the operand")
            };
            add(simd, *x, panel, &mut sums);
        }
        sums
    }
}

impl Tile {
    #[inline(always)]
    fn make<S: Simd, const V: usize>(
        self,
        simd: S,
        job: &Job<'_>,
        panel: &[f32],
        depth: usize,
        left: impl Left,
    ) {
        if depth >= FAR {
            for row in self.row..self.row + self.rows {
                let at = job.out.wrapping_add(row * job.stride + self.column);
                fetch::<_MM_HINT_ET0>(at, V * S::F32_LANES);
            }
        }
        let (panel, _) = S::as_simd_f32s(&panel[..depth * V * S::F32_LANES]);
        let sums = left.sums::<S, V>(simd, panel.as_chunks().0);
        let factor = simd.splat_f32s(job.factor);
        for (i, sums) in sums.iter().enumerate().take(self.rows) {
            for (v, sum) in sums.iter().enumerate() {
                self.put(simd, job, (i, v * S::F32_LANES), factor, *sum);
            }
        }
    }

    /// Writes the vector that begins at `(row, column)` of the tile.
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
        // SAFETY: `row` and `column + len` lie within the job's rows and columns, which its maker says are valid; they are
        // read only after a first chunk has written them or when the maker says that they can be.
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

/// At most a vector of numbers.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from) {
        ([whole], _) => *whole,
        (_, part) => simd.partial_load_f32s(part),
    }
}
