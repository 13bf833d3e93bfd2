//! Rows and centres in the layout of the instruction.

/// Rows per tile: three vectors.
pub const ROWS: usize = 3 * LANES;
/// Number of f32 in a vector.
pub(super) const LANES: usize = 16;
/// Dimensions packed at a time. Rows are padded with zeros to a multiple of this.
pub(super) const CHUNK: usize = 2 * LANES;
/// Maximum number of centres per run. Their sums use 27 of the 32 registers, rows three and a centre one.
pub(super) const BLOCK: usize = 9;
/// Centres in bf16, minus a shift that is also subtracted from rows, packed for products with tiles.
pub struct Centers {
    pub(super) dim: usize,
    pub(super) k: usize,
    /// Padded with zeros to whole chunks.
    pub(super) shift: Vec<f32>,
    /// Runs of up to [`BLOCK`] centres, each `[pairs of dimensions, centres]`. The first dimension of a pair is in the low half.
    pub(super) packed: Vec<u32>,
    pub(super) error: Error,
}

/// Maximum difference between a computed product of a row `x` and a centre `c` and `(x - shift).(c - shift)`: `slope * length +
/// offset`, where `length` is that of the rounded row, from [`Tile::squares`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Error {
    /// Error per unit of the row's length.
    pub slope: f64,
    /// Error that does not depend on the row.
    pub offset: f64,
    /// Length of the longest `c - shift`.
    pub longest: f64,
}

/// Rows in bf16.
pub struct Tile {
    /// `[pairs of dimensions, ROWS]`.
    pub(super) packed: Vec<u32>,
    /// Squared length of each rounded row.
    pub squares: [f32; ROWS],
}

/// The two best scores of each row of a tile, and the best centre (the lowest one in a tie).
#[derive(Clone, Debug)]
pub struct Tops {
    /// The best score.
    pub best: [f32; ROWS],
    /// The second-best score, equal to the best in a tie.
    pub second: [f32; ROWS],
    /// The best centre.
    pub ids: [u32; ROWS],
}

impl Default for Tops {
    /// The state before any centre.
    fn default() -> Self {
        Self {
            best: [f32::NEG_INFINITY; ROWS],
            second: [f32::NEG_INFINITY; ROWS],
            ids: [0; ROWS],
        }
    }
}

/// Iterates over runs of nearly equal size: first centre and number of centres.
pub(super) fn blocks(k: usize) -> impl ExactSizeIterator<Item = (usize, usize)> {
    let runs = k.div_ceil(BLOCK);
    let start = move |run: usize| run * k / runs;
    (0..runs).map(move |run| (start(run), start(run + 1) - start(run)))
}
