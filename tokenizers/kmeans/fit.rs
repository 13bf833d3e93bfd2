//! scikit-learn's mini-batch K-means (Sculley 2010): a centre moves to the mean of everything it ever absorbed; centres
//! that absorb almost nothing are put on random patches of the batch.

use rand::Rng;
use rand::seq::{SliceRandom, index};
use tessera_models::rng::keyed_rng;

use super::codebook::Codebook;
use super::nearest::NotFinite;
use super::rows::Rows;
use super::seeding::kmeans_plus_plus;
use super::step::{Step, Stepper};
use crate::contract::{BuildContext, Features, ImageStream};
use crate::{Error, Result};

/// Raised when the same input gives other centres.
pub const VERSION: u32 = 2;
/// scikit-learn's `reassignment_ratio`.
const REASSIGNMENT_RATIO: f32 = 0.01;
/// Patches that k-means++ looks at, at least (scikit-learn: three times the batch).
const SEED_ROWS: usize = 4096;

/// The fit's numbers.
pub struct Settings {
    pub k: usize,
    pub epochs: usize,
    /// Images per mini-batch.
    pub batch: usize,
    pub shuffle: bool,
    pub seed: u64,
}

pub fn fit(
    features: &dyn Features,
    images: &dyn ImageStream,
    settings: &Settings,
    cx: &BuildContext<'_>,
) -> Result<Codebook> {
    let mut rows = Rows::new(features, images, settings.epochs > 1);
    let batches = (images.len() / settings.batch).max(1);
    let mut codebook: Option<Codebook> = None;
    let mut since_reassignment = 0;
    let mut stepper = Stepper::new();
    for epoch in 0..settings.epochs {
        let order = order(images.len(), settings, epoch);
        // The last partial batch is dropped, unless it is the only one.
        for (at, batch) in order.chunks(settings.batch).take(batches).enumerate() {
            if (cx.interrupted)() {
                return Err(Error::Interrupted);
            }
            let mut rng = keyed_rng(settings.seed, "kmeans", epoch as u64, at as u64);
            let values = rows.get(batch)?;
            let mut current = match codebook.take() {
                Some(codebook) => codebook,
                None => seeded(&mut rows, &order, settings, features.dim())?,
            };
            let found = stepper
                .step(&values, current.dim, &current.centers)
                .map_err(|e| not_finite(e, batch, rows.patches()))?;
            absorb(&mut current, &found);
            since_reassignment += values.len() / current.dim;
            let empty = current.weights.contains(&0.0);
            if empty || since_reassignment >= 10 * settings.k {
                since_reassignment = 0;
                reassign(&mut current, &values, &mut rng);
            }
            codebook = Some(current);
            (cx.progress)(
                epoch * batches + at + 1,
                settings.epochs * batches,
                "batches",
            );
        }
    }
    codebook.ok_or_else(|| Error::Fit("k-means saw no images; the train split is empty".into()))
}

fn order(images: usize, settings: &Settings, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    if settings.shuffle {
        order.shuffle(&mut keyed_rng(
            settings.seed,
            "kmeans-order",
            epoch as u64,
            0,
        ));
    }
    order
}

/// First centres by k-means++ over random patches of the first images.
fn seeded(
    rows: &mut Rows<'_>,
    order: &[usize],
    settings: &Settings,
    dim: usize,
) -> Result<Codebook> {
    let wanted = SEED_ROWS.max(3 * settings.k);
    let patches = rows.patches();
    let images = wanted
        .div_ceil(patches)
        .max(settings.batch)
        .min(order.len());
    let all = rows.get(&order[..images])?;
    let mut rng = keyed_rng(settings.seed, "kmeans-seeding", 0, 0);
    let n = all.len() / dim;
    let chosen = index::sample(&mut rng, n, wanted.min(n)).into_vec();
    let sample: Vec<f32> = chosen
        .iter()
        .flat_map(|&i| &all[i * dim..(i + 1) * dim])
        .copied()
        .collect();
    Ok(Codebook {
        k: settings.k,
        dim,
        centers: kmeans_plus_plus(&sample, dim, settings.k, &mut rng),
        weights: vec![0.0; settings.k],
    })
}

/// Names the image and the patch of a row of `images`.
fn not_finite(found: NotFinite, images: &[usize], patches: usize) -> Error {
    Error::Fit(format!(
        "k-means: train image {}, patch {}: a feature is not a finite number, or too large for products in f32; \
         expected finite features: check their input scaling and the encoder",
        images[found.row / patches],
        found.row % patches
    ))
}

/// Moves every centre to the mean of what it absorbed before and now.
fn absorb(codebook: &mut Codebook, found: &Step) {
    let dim = codebook.dim;
    for (id, &count) in found
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let before = f64::from(codebook.weights[id]);
        let after = before + count as f64;
        let center = &mut codebook.centers[id * dim..(id + 1) * dim];
        for (value, sum) in center.iter_mut().zip(&found.sums[id * dim..]) {
            *value = ((f64::from(*value) * before + sum) / after) as f32;
        }
        codebook.weights[id] = after as f32;
    }
}

/// scikit-learn's `_mini_batch_step`: centres with less than 1 % of the largest weight (at most half as many as there are
/// patches) move to distinct random patches and get the smallest kept weight.
fn reassign(codebook: &mut Codebook, rows: &[f32], rng: &mut impl Rng) {
    let dim = codebook.dim;
    let n = rows.len() / dim;
    let weights = &codebook.weights;
    let largest = weights.iter().copied().fold(0.0, f32::max);
    let mut poor: Vec<usize> = (0..codebook.k)
        .filter(|&i| weights[i] < REASSIGNMENT_RATIO * largest)
        .collect();
    poor.sort_by(|a, b| weights[*a].total_cmp(&weights[*b]).then(a.cmp(b)));
    poor.truncate(n / 2);
    let kept = (0..codebook.k)
        .filter(|i| !poor.contains(i))
        .map(|i| weights[i])
        .fold(f32::MAX, f32::min);
    for (&id, at) in poor.iter().zip(index::sample(rng, n, poor.len())) {
        let row = &rows[at * dim..(at + 1) * dim];
        codebook.centers[id * dim..(id + 1) * dim].copy_from_slice(row);
        codebook.weights[id] = kept;
    }
}
