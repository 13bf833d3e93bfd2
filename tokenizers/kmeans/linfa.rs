//! `engine: linfa`: the linfa-clustering crate with Tessera's first centres, one start at a time. (linfa's `n_runs` returns the best
//! centres with the counts of the last run.) Tessera counts the patches of the returned centres.

use linfa::DatasetBase;
use linfa::traits::{Fit, FitWith};
use linfa_clustering::{IncrKMeansError, KMeans, KMeansInit};
use linfa_nn::distance::L2Dist;
use ndarray_linfa::{Array2, ArrayView2, ShapeError};

use super::codebook::Codebook;
use super::run::Run;
use crate::{Error, Result};

/// linfa's default: Euclidean length of the centres' last movement.
const TOLERANCE: f32 = 1e-4;

/// Runs linfa's `fit` on all patches at once.
pub fn lloyd(run: &mut Run<'_>) -> Result<Codebook> {
    let first = run.first_centers()?;
    let images = run.fitted.clone();
    let mut all = Vec::new();
    for batch in images.chunks(run.fields.batch) {
        run.check_interrupted()?;
        all.extend(run.rows.get(batch)?);
    }
    let (dim, epochs) = (run.dim, run.fields.epochs);
    let centers = array(first, dim)?;
    let params = KMeans::params(run.fields.k)
        .init_method(KMeansInit::Precomputed(centers))
        .n_runs(1)
        .max_n_iterations(epochs as u64)
        .tolerance(TOLERANCE);
    let model = params.fit(&DatasetBase::from(array(all, dim)?));
    let model = model.map_err(|e| failed(&e))?;
    run.report(epochs, epochs, "passes", model.inertia().into());
    let centers = numbers(model.centroids());
    let last = run.pass(&centers, &images)?;
    Ok(Codebook {
        weights: last.counts.iter().map(|&count| count as f32).collect(),
        inertia: Some(run.inertia(last.inertia, images.len(), false)),
        ..Codebook::new(centers, dim)
    })
}

/// linfa's incremental fit.
pub struct MiniBatch {
    dim: usize,
    first: Array2<f32>,
    model: Option<KMeans<f32, L2Dist>>,
}

impl MiniBatch {
    /// Starts from `centers` `[k, dim]`.
    ///
    /// # Errors
    /// If linfa refuses them.
    pub fn new(centers: Vec<f32>, dim: usize) -> Result<Self> {
        Ok(Self {
            dim,
            first: array(centers, dim)?,
            model: None,
        })
    }

    /// Updates the centres with one batch. Returns the batch's inertia before the update.
    pub fn absorb(&mut self, rows: &[f32]) -> Result<f64> {
        let shape = (rows.len() / self.dim, self.dim);
        let rows = ArrayView2::from_shape(shape, rows).map_err(|e| shapeless(&e))?;
        let params = KMeans::params(self.first.nrows())
            .init_method(KMeansInit::Precomputed(self.first.clone()))
            .n_runs(1)
            .tolerance(TOLERANCE);
        let moved = params.fit_with(self.model.take(), &DatasetBase::from(rows));
        let model = match moved {
            Ok(model) | Err(IncrKMeansError::NotConverged(model)) => model,
            Err(error) => return Err(failed(&error)),
        };
        let inertia = f64::from(model.inertia()) * shape.0 as f64;
        self.model = Some(model);
        Ok(inertia)
    }

    /// Returns the centres and the number of patches assigned to each.
    pub fn codebook(self) -> Codebook {
        let Some(model) = self.model else {
            return Codebook::new(numbers(&self.first), self.dim);
        };
        Codebook {
            weights: model.cluster_count().to_vec(),
            ..Codebook::new(numbers(model.centroids()), self.dim)
        }
    }
}

fn array(values: Vec<f32>, dim: usize) -> Result<Array2<f32>> {
    let shape = (values.len() / dim, dim);
    Array2::from_shape_vec(shape, values).map_err(|e| shapeless(&e))
}

/// Returns the values in row-major order, whatever the array's layout.
fn numbers(array: &Array2<f32>) -> Vec<f32> {
    array.iter().copied().collect()
}

fn shapeless(error: &ShapeError) -> Error {
    Error::Fit(format!("k-means by linfa: {error}"))
}

fn failed(error: &impl std::fmt::Display) -> Error {
    Error::Fit(format!("k-means by linfa: {error}; try `engine: gemm`"))
}
