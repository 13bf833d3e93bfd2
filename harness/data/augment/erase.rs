//! Random erasing (Zhong et al. 2020) as in timm's mode `pixel`: replaces a box of the normalised image with noise.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Minimum and maximum fraction of the area.
const AREA: (f64, f64) = (0.02, 1.0 / 3.0);
/// Minimum and maximum ratio of height to width.
const ASPECT: (f64, f64) = (0.3, 1.0 / 0.3);

/// A box to erase, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

/// Erases a box of `values` `[3, side, side]` with probability `probability`.
pub fn erase(values: &mut [f32], side: usize, probability: f64, rng: &mut impl Rng) {
    if rng.random::<f64>() >= probability {
        return;
    }
    if let Some(hole) = (0..10).find_map(|_| hole(side, rng)) {
        for plane in values.chunks_exact_mut(side * side) {
            for row in plane
                .chunks_exact_mut(side)
                .skip(hole.top)
                .take(hole.height)
            {
                let place = &mut row[hole.left..][..hole.width];
                place.fill_with(|| StandardNormal.sample(rng));
            }
        }
    }
}

fn hole(side: usize, rng: &mut impl Rng) -> Option<Hole> {
    let between = |(low, high): (f64, f64), u: f64| low + (high - low) * u;
    let area = between(AREA, rng.random());
    let aspect = between((ASPECT.0.ln(), ASPECT.1.ln()), rng.random()).exp();
    let (height, width) = size(side, area, aspect)?;
    Some(Hole {
        top: rng.random_range(0..=side - height),
        left: rng.random_range(0..=side - width),
        height,
        width,
    })
}

/// Returns height and width of a box with a given fraction of the area and aspect; `None` if it does not fit.
pub fn size(side: usize, area: f64, aspect: f64) -> Option<(usize, usize)> {
    let pixels = area * (side * side) as f64;
    let height = (pixels * aspect).sqrt().round_ties_even() as usize;
    let width = (pixels / aspect).sqrt().round_ties_even() as usize;
    (height < side && width < side).then_some((height, width))
}
