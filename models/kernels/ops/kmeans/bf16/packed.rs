//! Rows and centres as the instruction takes them.

/// Rows of a tile: three vectors of them.
pub const ROWS: usize = 3 * LANES;
pub(super) const LANES: usize = 16;
/// Dimensions that are packed at a time; a row is filled up to them with zeros.
pub(super) const CHUNK: usize = 2 * LANES;
/// Centres whose sums stay in registers: 27 of the 32, beside three of rows and one of a centre.
pub(super) const BLOCK: usize = 9;
/// Centres in bf16, less a shift that is taken from rows too, ready for products with tiles.
pub struct Centers {
    pub(super) dim: usize,
    pub(super) k: usize,
    /// Filled up with zeros to whole chunks.
    pub(super) shift: Vec<f32>,
    /// Runs of up to [`BLOCK`] centres, each `[pairs of dimensions, centres]`; of a pair the earlier dimension is the low half.
    pub(super) packed: Vec<u32>,
    pub(super) error: Error,
}

/// How far a product of a row `x` and a centre is from `(x - shift).(c - shift)`, at most: `slope * length + offset`, where
/// `length` is the rounded row's, from [`Tile::squares`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Error {
    /// Per unit of the row's length.
    pub slope: f64,
    /// Of any row.
    pub offset: f64,
    /// Length of the longest `c - shift`.
    pub longest: f64,
}

/// Rows of a tile in bf16.
pub struct Tile {
    /// `[pairs of dimensions, ROWS]`.
    pub(super) packed: Vec<u32>,
    /// Squared length of each rounded row.
    pub squares: [f32; ROWS],
}

/// The two best scores of each row of a tile, and the centre of the best: the lowest of equals.
#[derive(Clone, Debug)]
pub struct Tops {
    /// The best.
    pub best: [f32; ROWS],
    /// The second, equal to the best where two are.
    pub second: [f32; ROWS],
    /// The best one's centre.
    pub ids: [u32; ROWS],
}

impl Default for Tops {
    /// Of no centre.
    fn default() -> Self {
        Self {
            best: [f32::NEG_INFINITY; ROWS],
            second: [f32::NEG_INFINITY; ROWS],
            ids: [0; ROWS],
        }
    }
}

/// First centre and number of centres of each run: as equal as can be.
pub(super) fn blocks(k: usize) -> impl ExactSizeIterator<Item = (usize, usize)> {
    let runs = k.div_ceil(BLOCK);
    let start = move |run: usize| run * k / runs;
    (0..runs).map(move |run| (start(run), start(run + 1) - start(run)))
}
