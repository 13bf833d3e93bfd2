//! Products of rows and centres in bf16, on CPUs with AVX-512's `vdpbf16ps`, which multiplies twice as many numbers per
//! instruction as f32. [`Centers::error`] bounds the error. To get the exact order, callers must recompute scores that differ by
//! less than the bound.
//!
//! Tiles have one row per vector lane: `x - shift` rounded to bf16, with the two dimensions of a pair adjacent, as the instruction
//! requires. Centres are broadcast, so neither rows nor centres are padded to whole vectors.

mod packed;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use packed::{Centers, Error, ROWS, Tile, Tops};

use half::bf16;
use packed::{CHUNK, LANES, blocks};

/// Relative error of rounding to bf16, plus 2^-24 for subtracting the shift before.
const ROUNDING: f64 = 1.0 / 256.0 + 1.0 / 8_388_608.0;

/// Returns whether this machine has the instructions.
pub fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Centers {
    /// Packs `centers` `[k, dim]` minus `shift` `[dim]`; `None` if the machine lacks the instructions.
    ///
    /// # Panics
    /// If the length of `centers` is not a multiple of that of `shift`.
    pub fn new(centers: &[f32], shift: &[f32]) -> Option<Self> {
        let dim = shift.len();
        assert!(centers.len().is_multiple_of(dim), "centres of {dim}");
        if !is_available() {
            return None;
        }
        let (k, pairs) = (centers.len() / dim, dim.div_ceil(CHUNK) * LANES);
        let mut padded = shift.to_vec();
        padded.resize(2 * pairs, 0.0);
        let half = |center: &[f32], at: usize| match center.get(at) {
            Some(value) => u32::from(bf16::from_f32(value - shift[at]).to_bits()),
            None => 0,
        };
        let mut packed = Vec::with_capacity(k * pairs);
        for (first, count) in blocks(k) {
            let block = &centers[first * dim..(first + count) * dim];
            for at in (0..2 * pairs).step_by(2) {
                let pair = |center| half(center, at) | half(center, at + 1) << 16;
                packed.extend(block.chunks_exact(dim).map(pair));
            }
        }
        Some(Self {
            dim,
            k,
            shift: padded,
            packed,
            error: Error::of(centers, shift),
        })
    }

    /// Returns the error bound of the products.
    pub fn error(&self) -> Error {
        self.error
    }

    /// Returns an empty tile for rows of this width.
    pub fn tile(&self) -> Tile {
        Tile {
            packed: vec![0; self.shift.len() / 2 * ROWS],
            squares: [0.0; ROWS],
        }
    }

    /// Packs `rows` `[at most ROWS, dim]` into a tile of [`tile`](Self::tile), and fills the remaining rows with zeros.
    ///
    /// # Panics
    /// If sizes differ.
    pub fn pack(&self, rows: &[f32], tile: &mut Tile) {
        let count = rows.len() / self.dim;
        assert!(count <= ROWS && count * self.dim == rows.len(), "rows");
        self.check(tile);
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "instructions that not every machine has")]
        // SAFETY: `new` creates centres only if the instructions are available.
        unsafe {
            x86::pack(self, rows, tile);
        }
    }

    /// Writes the products of a tile with all centres plus each centre's bias, `[k, ROWS]`, to `out`. Returns the two best of every
    /// row, ignoring NaN. Prefetches `ahead`, the rows to pack next.
    ///
    /// # Panics
    /// If sizes differ.
    pub fn scores(&self, tile: &Tile, bias: &[f32], ahead: &[f32], out: &mut [f32]) -> Tops {
        assert_eq!((bias.len(), out.len()), (self.k, self.k * ROWS), "scores");
        self.check(tile);
        let mut tops = Tops::default();
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "instructions that not every machine has")]
        // SAFETY: `new` creates centres only if the instructions are available.
        unsafe {
            x86::scores(self, tile, bias, ahead, out, &mut tops);
        }
        tops
    }

    fn check(&self, tile: &Tile) {
        assert_eq!(tile.packed.len(), self.shift.len() / 2 * ROWS, "tile");
    }
}

impl Error {
    fn of(centers: &[f32], shift: &[f32]) -> Self {
        let dim = shift.len();
        // The largest length of a shifted centre, and the largest length of a rounding error.
        let (mut longest, mut lost) = (0.0_f64, 0.0_f64);
        for center in centers.chunks_exact(dim) {
            let (mut square, mut difference) = (0.0, 0.0);
            for (value, shift) in center.iter().zip(shift) {
                let exact = f64::from(*value) - f64::from(*shift);
                let rounded = f64::from(bf16::from_f32(value - shift).to_f32());
                square += exact * exact;
                difference += (rounded - exact).powi(2);
            }
            longest = longest.max(square.sqrt());
            lost = lost.max(difference.sqrt());
        }
        // Each pair of dimensions adds two roundings to a product and to the squared length. The instruction treats subnormal f32
        // numbers as zero.
        let sums = dim as f64 / f64::from(1 << 23);
        let row = ROUNDING / (1.0 - ROUNDING);
        let tiny = 4.0 * dim as f64 * f64::from(f32::MIN_POSITIVE);
        Self {
            slope: (row * longest + lost + sums * (longest + lost) + tiny) * (1.0 + 2.0 * sums),
            offset: tiny * (1.0 + longest),
            longest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::packed::BLOCK;
    use super::*;
    use crate::testing::formula;

    /// Compares with sums in f64: errors are within the bound, and the bound is as tight as bf16 permits.
    #[test]
    fn products_are_within_their_bound() {
        for (n, dim, k) in [
            (1, 1, 1),
            (47, 31, 9),
            (48, 32, 10),
            (33, 70, 19),
            (48, 768, 50),
        ] {
            let (rows, centers) = (formula(1, n * dim, 3.0), formula(2, k * dim, 2.0));
            let shift = formula(3, dim, 1.0);
            let Some(packed) = Centers::new(&centers, &shift) else {
                crate::testing::tell("SKIPPED, bf16 products: this machine has none");
                return;
            };
            let (mut tile, mut out) = (packed.tile(), vec![f32::NAN; k * ROWS]);
            packed.pack(&formula(4, ROWS * dim, 9.0), &mut tile);
            packed.pack(&rows, &mut tile);
            let bias = formula(5, k, 4.0);
            let tops = packed.scores(&tile, &bias, &rows, &mut out);
            let error = packed.error();
            let mut worst = 0.0_f64;
            for (row, x) in rows.chunks(dim).enumerate() {
                let allowed = error.slope * f64::from(tile.squares[row]).sqrt() + error.offset;
                let scores = |id: usize| out[id * ROWS + row];
                let best = (0..k)
                    .rev()
                    .max_by(|a, b| scores(*a).total_cmp(&scores(*b)));
                let best = best.unwrap();
                let others = (0..k).filter(|id| *id != best).map(scores);
                assert_eq!(tops.ids[row] as usize, best);
                assert_eq!(tops.best[row], scores(best));
                assert_eq!(tops.second[row], others.fold(f32::NEG_INFINITY, f32::max));
                for (id, c) in centers.chunks(dim).enumerate() {
                    let each = x.iter().zip(c).zip(&shift);
                    let exact: f64 = each
                        .map(|((x, c), s)| {
                            let [x, c, s] = [x, c, s].map(|v| f64::from(*v));
                            (x - s) * (c - s)
                        })
                        .sum();
                    let found = f64::from(out[id * ROWS + row]);
                    let difference = (found - f64::from(bias[id]) - exact).abs() - 1e-5;
                    assert!(difference <= allowed, "{n}x{dim}, k {k}: {found} {exact}");
                    worst = worst.max(difference);
                }
            }
            assert!(error.slope < 0.01 * error.longest, "{error:?}");
            assert!(dim < 32 || worst > 0.0, "nothing was rounded");
            for (scores, bias) in out.chunks(ROWS).zip(&bias) {
                assert!(scores[n..].iter().all(|v| v == bias), "padding rows");
            }
        }
    }

    #[test]
    fn runs_cover_all_centres_with_nearly_equal_sizes() {
        for k in 1..100 {
            let runs: Vec<_> = blocks(k).collect();
            let mut next = 0;
            for (first, count) in &runs {
                assert_eq!(*first, next);
                assert!((1..=BLOCK).contains(count));
                next += count;
            }
            assert_eq!(next, k);
            let counts = runs.iter().map(|run| run.1);
            assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
        }
    }
}
