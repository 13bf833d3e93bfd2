//! Streamed Lloyd's algorithm: every pass reads all images batch by batch and then moves every centre to the mean of its patches.

use super::codebook::Codebook;
use super::run::{Batch, Run};
use crate::Result;

/// scikit-learn's `tol`: the fit ends when the squared shift of the centres is below this fraction of the features' mean variance.
const TOLERANCE: f64 = 1e-4;

/// Fits from the first centres that [`Run::first_centers`] chooses.
pub fn fit(run: &mut Run<'_>) -> Result<Codebook> {
    let first = run.first_centers()?;
    from(run, first)
}

/// Fits from `centers`, `[k, dim]`.
pub fn from(run: &mut Run<'_>, mut centers: Vec<f32>) -> Result<Codebook> {
    let images = run.fitted.clone();
    let patches = (images.len() * run.rows.patches()) as f64;
    let epochs = run.fields.epochs;
    for epoch in 0..epochs {
        let found = run.pass(&centers, &images)?;
        run.report(epoch + 1, epochs, "passes", found.inertia / patches);
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
    // Another pass, because the last counts belong to the centres before their last move.
    let last = run.pass(&centers, &images)?;
    let weights = last.counts.iter().map(|&count| count as f32).collect();
    Ok(Codebook {
        weights,
        inertia: Some(run.inertia(last.inertia, images.len(), false)),
        ..Codebook::new(centers, run.dim)
    })
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// The patches farthest from their centres, at most one per task of patches. Empty centres move to them, as in scikit-learn. The
/// order depends on the patches only.
struct Farthest {
    most: usize,
    dim: usize,
    /// Distance and features, by descending distance; ties in order of appearance.
    rows: Vec<(f32, Vec<f32>)>,
}

impl Farthest {
    /// Finds them in a separate pass, because empty centres are rare.
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
            // A patch that equals its centre would duplicate that centre.
            if at < self.most && distance > 0.0 {
                let row = rows.row(row, self.dim)?;
                self.rows.insert(at, (distance, row));
                self.rows.truncate(self.most);
            }
        }
        Ok(())
    }

    /// Moves empty centres to the farthest patches, as long as there are any.
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
