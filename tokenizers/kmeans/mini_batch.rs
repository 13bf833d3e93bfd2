//! scikit-learn's mini-batch K-means (Sculley 2010): a centre moves to the mean of all patches assigned to it so far. Centres with
//! almost no patches move to random patches of the batch.

use rand::Rng;
use rand::seq::index;

use super::codebook::Codebook;
use super::fields::Engine;
use super::run::{Batch, Run};
use super::step::Step;
use crate::Result;

/// scikit-learn's `reassignment_ratio`.
const REASSIGNMENT_RATIO: f32 = 0.01;

/// Fits from the first centres that [`Run::first_centers`] chooses.
pub fn fit(run: &mut Run<'_>) -> Result<Codebook> {
    let first = run.first_centers()?;
    from(run, first)
}

/// Fits from `centers`, `[k, dim]`.
pub fn from(run: &mut Run<'_>, centers: Vec<f32>) -> Result<Codebook> {
    let (size, epochs) = (run.fields.batch, run.fields.epochs);
    // The last partial batch is dropped, unless it is the only one.
    let batches = (run.fitted.len() / size).max(1);
    let mut state = State::new(run, centers)?;
    for epoch in 0..epochs {
        let order = run.order(epoch);
        for (at, batch) in order.chunks(size).take(batches).enumerate() {
            run.check_interrupted()?;
            let rows = run.batch(batch)?;
            let inertia = state.absorb(run, batch, &rows, (epoch, at))?;
            let per_patch = inertia / rows.count(run.dim) as f64;
            run.recycle(rows);
            run.report(
                epoch * batches + at + 1,
                epochs * batches,
                "batches",
                per_patch,
            );
        }
    }
    Ok(state.codebook())
}

enum State {
    Gemm {
        codebook: Codebook,
        since_reassignment: usize,
    },
    #[cfg(feature = "linfa")]
    Linfa(super::linfa::MiniBatch),
}

impl State {
    fn new(run: &Run<'_>, centers: Vec<f32>) -> Result<Self> {
        match run.fields.engine {
            Engine::Gemm => Ok(Self::Gemm {
                codebook: Codebook::new(centers, run.dim),
                since_reassignment: 0,
            }),
            #[cfg(feature = "linfa")]
            Engine::Linfa => Ok(Self::Linfa(super::linfa::MiniBatch::new(centers, run.dim)?)),
            #[cfg(not(feature = "linfa"))]
            Engine::Linfa => Err(super::run::without_linfa()),
        }
    }

    /// Updates the centres with one batch. Returns the batch's inertia before the update.
    fn absorb(
        &mut self,
        run: &mut Run<'_>,
        images: &[usize],
        rows: &Batch,
        (epoch, at): (usize, usize),
    ) -> Result<f64> {
        match self {
            Self::Gemm {
                codebook,
                since_reassignment,
            } => {
                let found = run.step(&codebook.centers, images, rows)?;
                absorb(codebook, &found);
                *since_reassignment += rows.count(codebook.dim);
                let empty = codebook.weights.contains(&0.0);
                if empty || *since_reassignment >= 10 * codebook.k {
                    *since_reassignment = 0;
                    reassign(codebook, rows, &mut run.rng("kmeans", epoch, at))?;
                }
                Ok(found.inertia)
            }
            #[cfg(feature = "linfa")]
            Self::Linfa(model) => match rows {
                Batch::Host(rows) => model.absorb(rows),
                Batch::Device(_) => Err(crate::Error::Fit(
                    "linfa cannot use rows on a device".into(),
                )),
            },
        }
    }

    fn codebook(self) -> Codebook {
        match self {
            Self::Gemm { codebook, .. } => codebook,
            #[cfg(feature = "linfa")]
            Self::Linfa(model) => model.codebook(),
        }
    }
}

/// Moves every centre to the mean of all its patches, including those of `found`.
fn absorb(codebook: &mut Codebook, found: &Step) {
    let dim = codebook.dim;
    let counts = found.counts.iter().enumerate();
    for (id, &count) in counts.filter(|(_, count)| **count > 0) {
        let before = f64::from(codebook.weights[id]);
        let after = before + count as f64;
        let center = &mut codebook.centers[id * dim..(id + 1) * dim];
        for (value, sum) in center.iter_mut().zip(&found.sums[id * dim..]) {
            *value = ((f64::from(*value) * before + sum) / after) as f32;
        }
        codebook.weights[id] = after as f32;
    }
}

/// scikit-learn's `_mini_batch_step`: centres with less than 1 % of the largest weight (at most half as many as the batch has
/// patches) move to distinct random patches and get the smallest weight of the other centres.
fn reassign(codebook: &mut Codebook, rows: &Batch, rng: &mut impl Rng) -> Result<()> {
    let dim = codebook.dim;
    let n = rows.count(dim);
    let weights = &codebook.weights;
    let largest = weights.iter().copied().fold(0.0, f32::max);
    let mut poor: Vec<usize> = (0..codebook.k)
        .filter(|&i| weights[i] < REASSIGNMENT_RATIO * largest)
        .collect();
    poor.sort_by(|a, b| weights[*a].total_cmp(&weights[*b]).then(a.cmp(b)));
    poor.truncate(n / 2);
    let mut is_poor = vec![false; codebook.k];
    poor.iter().for_each(|id| is_poor[*id] = true);
    let kept = weights.iter().zip(is_poor).filter(|(_, poor)| !poor);
    let kept = kept.map(|(weight, _)| *weight).fold(f32::MAX, f32::min);
    for (&id, at) in poor.iter().zip(index::sample(rng, n, poor.len())) {
        let row = rows.row(at, dim)?;
        codebook.centers[id * dim..(id + 1) * dim].copy_from_slice(&row);
        codebook.weights[id] = kept;
    }
    Ok(())
}
