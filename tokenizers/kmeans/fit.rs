//! A fit: splits off held-out images, runs one or several starts, selects the best, and measures its inertia on the held-out images, or
//! else on all images.

use rand::seq::index;
use tessera_models::rng::keyed_rng;

use super::codebook::{Codebook, Inertia};
use super::fields::{Algorithm, Engine, Fields};
use super::run::Run;
use super::{lloyd, mini_batch, rows};
use crate::contract::{Features, FitCost, ImageStream};
use crate::registry::BuildContext;
use crate::{Error, Result};

/// Version of the algorithm; increase it whenever the same input gives different centres.
pub const VERSION: u32 = 4;

/// Fits centres to the features of `images`.
///
/// # Errors
/// [`Error::Fit`] if there are no images or a feature is not finite, [`Error::Interrupted`], and errors from reading images and
/// extracting features.
pub fn fit(
    features: &dyn Features,
    images: &dyn ImageStream,
    fields: &Fields,
    seed: u64,
    cx: &BuildContext<'_>,
) -> Result<Codebook> {
    if images.is_empty() {
        let message = "k-means got no images; the train split is empty";
        return Err(Error::Fit(message.into()));
    }
    let (fitted, held_out) = split(images.len(), fields.held_out, seed);
    let mut run = Run::new(features, images, fitted, fields, seed, cx);
    let mut codebook = best(&mut run)?;
    if !held_out.is_empty() {
        let found = run.pass(&codebook.centers, &held_out)?.inertia;
        codebook.inertia = Some(run.inertia(found, held_out.len(), true));
    } else if codebook.inertia.is_none() {
        codebook.inertia = Some(of_fitted(&mut run, &codebook)?);
    }
    run.report_result(&codebook);
    Ok(codebook)
}

/// Measures the inertia of the images of the fit.
fn of_fitted(run: &mut Run<'_>, codebook: &Codebook) -> Result<Inertia> {
    let fitted = run.fitted.clone();
    let found = run.pass(&codebook.centers, &fitted)?.inertia;
    Ok(run.inertia(found, fitted.len(), false))
}

/// Returns the codebook of the start with the smallest inertia. Every start has its own random numbers.
fn best(run: &mut Run<'_>) -> Result<Codebook> {
    let mut best: Option<(f64, Codebook)> = None;
    for restart in 0..run.fields.restarts {
        run.restart = restart;
        let mut codebook = match (run.fields.algorithm, run.fields.engine) {
            (Algorithm::MiniBatch, _) => mini_batch::fit(run)?,
            (Algorithm::Lloyd, Engine::Gemm) => lloyd::fit(run)?,
            #[cfg(feature = "linfa")]
            (Algorithm::Lloyd, Engine::Linfa) => super::linfa::lloyd(run)?,
            #[cfg(not(feature = "linfa"))]
            (Algorithm::Lloyd, Engine::Linfa) => return Err(super::run::without_linfa()),
        };
        if run.fields.restarts == 1 {
            return Ok(codebook);
        }
        let inertia = match codebook.inertia {
            Some(inertia) => inertia,
            None => of_fitted(run, &codebook)?,
        };
        codebook.inertia = Some(inertia);
        let inertia = inertia.per_patch;
        if best.as_ref().is_none_or(|(least, _)| inertia < *least) {
            best = Some((inertia, codebook));
        }
    }
    let none = || Error::Fit("k-means got 0 restarts, expected at least 1".into());
    best.map(|(_, codebook)| codebook).ok_or_else(none)
}

/// Returns the cost of [`fit`] for `dim` features per patch: one assignment of every patch per pass, and a new extraction of the
/// features in every pass if they are too large for the cache.
pub fn cost(dim: usize, fields: &Fields, cx: &BuildContext<'_>) -> FitCost {
    let (images, patches) = (cx.num_train(), cx.grid.num_patches());
    // One more pass of every start measures the inertia; with held-out images only those of several starts do.
    let measured = fields.restarts > 1 || fields.held_out == 0;
    let passes = fields.restarts * (fields.epochs + usize::from(measured));
    let cached = rows::fit_in_cache(images, patches * dim);
    let assigned = (passes * images * patches) as f64;
    FitCost {
        images: (images * if cached { 1 } else { passes }) as f64,
        flops: 2.0 * assigned * (fields.k * dim) as f64,
        memory: (4 * dim * rows_at_once(images, patches, fields)) as f64,
    }
}

/// Returns the number of patches whose features are in memory at a time: those of a batch, or of the sample for the first centres and the
/// images from which it is drawn; for linfa's Lloyd all, twice.
fn rows_at_once(images: usize, patches: usize, fields: &Fields) -> usize {
    if (fields.engine, fields.algorithm) == (Engine::Linfa, Algorithm::Lloyd) {
        return 2 * images * patches;
    }
    let wanted = super::run::seed_rows(fields);
    let drawn = wanted.div_ceil(patches.max(1)).max(fields.batch);
    drawn.min(images) * patches + wanted.min(images * patches)
}

/// Returns the indices of the images for the fit and of the held-out ones, both sorted.
pub fn split(images: usize, held_out: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut rng = keyed_rng(seed, "kmeans-held-out", 0, 0);
    let mut measured = index::sample(&mut rng, images, held_out).into_vec();
    measured.sort_unstable();
    let fitted = |image: &usize| measured.binary_search(image).is_err();
    ((0..images).filter(fitted).collect(), measured)
}
