//! Scores of a tile of rows with all centres in bf16, if the machine has bf16 products. Their error has a known bound.

use tessera_kernels::ops::kmeans::bf16::{Centers, Error, Tile, Tops};

/// With shorter rows or fewer centres, f32 is as fast.
const MIN_DIM: usize = 24;
const MIN_CENTERS: usize = 8;

/// Centres prepared for bf16 products.
pub struct Halves {
    centers: Centers,
    /// Bias of each centre for shifted rows, `[k]`.
    bias: Vec<f32>,
    /// Length of the shift.
    pub shift: f64,
}

impl Halves {
    /// Prepares `centers` `[k, dim]` with a bias each; `None` if f32 is the better choice. The centres' mean is subtracted from centres
    /// and rows. This does not change the order of the centres, and shorter vectors have smaller errors.
    pub fn new(centers: &[f32], dim: usize, bias: &[f32]) -> Option<Self> {
        if dim < MIN_DIM || bias.len() < MIN_CENTERS {
            return None;
        }
        let mut mean = vec![0.0_f64; dim];
        for center in centers.chunks_exact(dim) {
            let each = mean.iter_mut().zip(center);
            each.for_each(|(mean, c)| *mean += f64::from(*c) / bias.len() as f64);
        }
        let mean: Vec<f32> = mean.into_iter().map(|v| v as f32).collect();
        // x.c + b equals (x - m).(c - m) + (b + m.c) plus a term that is the same for all centres. m.m is subtracted too, to
        // avoid cancellation when centres and shift have similar lengths.
        let of = |(center, bias): (&[f32], &f32)| {
            let each = mean.iter().zip(center);
            let product = each.map(|(m, c)| f64::from(*m) * (f64::from(*c) - f64::from(*m)));
            (f64::from(*bias) + product.sum::<f64>()) as f32
        };
        let square: f64 = mean.iter().map(|m| f64::from(*m).powi(2)).sum();
        Some(Self {
            centers: Centers::new(centers, &mean)?,
            bias: centers.chunks_exact(dim).zip(bias).map(of).collect(),
            shift: square.sqrt(),
        })
    }

    /// Returns the error bound of a product.
    pub fn error(&self) -> Error {
        self.centers.error()
    }

    /// Returns the largest magnitude of a bias.
    pub fn largest_bias(&self) -> f64 {
        largest_of(&self.bias)
    }

    /// Returns a buffer for a tile of rows.
    pub fn tile(&self) -> Tile {
        self.centers.tile()
    }

    /// Writes the scores of up to [`TILE`](super::products::TILE) rows with all centres, `[k, TILE]`. Returns the two best of each row.
    /// Prefetches `ahead`.
    pub fn of(&self, rows: &[f32], ahead: &[f32], tile: &mut Tile, scores: &mut [f32]) -> Tops {
        self.centers.pack(rows, tile);
        self.centers.scores(tile, &self.bias, ahead, scores)
    }
}

/// Returns the largest magnitude.
pub fn largest_of(values: &[f32]) -> f64 {
    values
        .iter()
        .fold(0.0, |most, v| f64::from(v.abs()).max(most))
}
