//! Lloyd's algorithm, streamed: every pass reads all images, a batch in memory at a time, and then moves every centre to
//! the mean of its patches.

use super::codebook::Codebook;
use super::run::{Batch, Run};
use crate::Result;

/// scikit-learn's `tol`: the fit ends when centres move by less than this part of the features' mean variance.
const TOLERANCE: f64 = 1e-4;

/// From chosen first centres.
pub fn fit(run: &mut Run<'_>) -> Result<Codebook> {
    let first = run.first_centers()?;
    from(run, first)
}

/// From `centers`, `[k, dim]`.
pub fn from(run: &mut Run<'_>, mut centers: Vec<f32>) -> Result<Codebook> {
    let images = run.seen.clone();
    let patches = (images.len() * run.rows.patches()) as f64;
    let epochs = run.fields.epochs;
    for epoch in 0..epochs {
        let found = run.pass(&centers, &images)?;
        run.say(epoch + 1, epochs, "passes", found.inertia / patches);
        let mut moved = found.means(&centers);
        if found.counts.contains(&0) {
            Farthest::of(run, &centers, &images)?.reseed(&mut moved, &found.counts);
        }
        let shift = squared_distance(&moved, &centers);
        centers = moved;
        if shift <= TOLERANCE * found.mean_variance() {
            break;
        }
    }
    // Counts belong to the centres that are kept, not to those they came from.
    let last = run.pass(&centers, &images)?;
    let weights = last.counts.iter().map(|&count| count as f32).collect();
    Ok(Codebook {
        weights,
        ..Codebook::new(centers, run.dim)
    })
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// The patches farthest from their centres, one of each run of patches at most: where empty centres go, as
/// scikit-learn's go to the farthest patches. In an order that depends on the patches alone.
struct Farthest {
    most: usize,
    dim: usize,
    /// By falling distance; of equals the first seen.
    rows: Vec<(f32, Vec<f32>)>,
}

impl Farthest {
    /// Of another pass: few have centres without patches.
    fn of(run: &mut Run<'_>, centers: &[f32], images: &[usize]) -> Result<Self> {
        let mut far = Self {
            most: run.fields.k,
            dim: run.dim,
            rows: Vec::new(),
        };
        run.each_batch(images, |run, batch, rows| {
            let found = run.farthest(centers, batch, rows)?;
            far.take(&found, rows)
        })?;
        Ok(far)
    }

    fn take(&mut self, farthest: &[(f32, usize)], rows: &Batch) -> Result<()> {
        for &(distance, row) in farthest {
            let at = self.rows.partition_point(|(other, _)| *other >= distance);
            // A patch on its centre is no better place for another.
            if at < self.most && distance > 0.0 {
                let row = rows.row(row, self.dim)?;
                self.rows.insert(at, (distance, row));
                self.rows.truncate(self.most);
            }
        }
        Ok(())
    }

    /// Puts centres without patches on the farthest ones; the rest of them stay.
    fn reseed(&self, centers: &mut [f32], counts: &[u64]) {
        let empty = centers
            .chunks_exact_mut(self.dim)
            .zip(counts)
            .filter(|(_, count)| **count == 0);
        for ((center, _), (_, row)) in empty.zip(&self.rows) {
            center.copy_from_slice(row);
        }
    }
}
