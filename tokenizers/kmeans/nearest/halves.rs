//! Scores of a tile of rows with all centres in bf16, where the machine has such products: near the true ones by a known bound.

use tessera_kernels::ops::kmeans::bf16::{Centers, Error, Tile, Tops};

/// Rows this short and centres this few are as fast in f32.
const MIN_DIM: usize = 24;
const MIN_CENTERS: usize = 8;

/// Centres, made ready for products.
pub struct Halves {
    centers: Centers,
    /// Of each centre, for rows less the shift.
    bias: Vec<f32>,
    /// Length of the shift.
    pub shift: f64,
}

impl Halves {
    /// `centers` `[k, dim]` with a bias each; `None` where f32 is the better choice. The centres' mean is taken from centres and rows,
    /// which changes no row's order of them: the shorter both are, the nearer are their products to the true ones.
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
        // x.c + b is (x - m).(c - m) + (b + m.c) and something that is the same for all centres. Lengths of centres and
        // shift being alike in size, so that nothing is lost, m.m is taken off too.
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

    /// How wrong a product is at most.
    pub fn error(&self) -> Error {
        self.centers.error()
    }

    /// The largest bias.
    pub fn largest_bias(&self) -> f64 {
        largest_of(&self.bias)
    }

    /// A tile for rows.
    pub fn tile(&self) -> Tile {
        self.centers.tile()
    }

    /// The scores of up to [`TILE`](super::products::TILE) rows with all centres, `[k, TILE]`, and the two best of each; meanwhile `ahead` is fetched near
    /// the core.
    pub fn of(&self, rows: &[f32], ahead: &[f32], tile: &mut Tile, scores: &mut [f32]) -> Tops {
        self.centers.pack(rows, tile);
        self.centers.scores(tile, &self.bias, ahead, scores)
    }
}

/// The largest magnitude.
pub fn largest_of(values: &[f32]) -> f64 {
    values
        .iter()
        .fold(0.0, |most, v| f64::from(v.abs()).max(most))
}
