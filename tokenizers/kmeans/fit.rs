//! scikit-learn's mini-batch K-means (Sculley 2010): a centre moves to the mean of everything it ever absorbed; centres
//! that absorb almost nothing are put on random patches of the batch.

use rand::Rng;
use rand::seq::{SliceRandom, index};
use rayon::prelude::*;
use tessera_models::rng::keyed_rng;

use super::Matching;
use super::codebook::Codebook;
use super::rows::Rows;
use super::seeding::kmeans_plus_plus;
use crate::contract::{BuildContext, Features, ImageStream};
use crate::{Error, Result};

/// Raised when the same input gives other centres.
pub const VERSION: u32 = 1;
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
    for epoch in 0..settings.epochs {
        let order = order(images.len(), settings, epoch);
        // The last partial batch is dropped, unless it is the only one.
        for (step, batch) in order.chunks(settings.batch).take(batches).enumerate() {
            if (cx.interrupted)() {
                return Err(Error::Interrupted);
            }
            let mut rng = keyed_rng(settings.seed, "kmeans", epoch as u64, step as u64);
            let tiles = rows.get(batch)?;
            let mut current = match codebook.take() {
                Some(codebook) => codebook,
                None => seeded(&mut rows, &order, settings, features.dim())?,
            };
            let sums = assign_and_sum(&current, &tiles)?;
            absorb(&mut current, &sums);
            since_reassignment += tiles.iter().map(|t| t.len()).sum::<usize>() / current.dim;
            let empty = current.weights.contains(&0.0);
            if empty || since_reassignment >= 10 * settings.k {
                since_reassignment = 0;
                reassign(&mut current, &tiles, &mut rng);
            }
            codebook = Some(current);
            (cx.progress)(
                epoch * batches + step + 1,
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
    let all: Vec<f32> = rows.get(&order[..images])?.concat();
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

/// Per centre: sum of its rows, and their number.
struct Sums {
    sums: Vec<f64>,
    counts: Vec<u32>,
}

fn assign_and_sum(codebook: &Codebook, tiles: &[Vec<f32>]) -> Result<Sums> {
    let parts = tiles.par_iter().map(|tile| {
        let ids = codebook.assign(tile, Matching::Euclidean)?;
        let mut part = Sums {
            sums: vec![0.0; codebook.k * codebook.dim],
            counts: vec![0; codebook.k],
        };
        for (id, row) in ids.iter().zip(tile.chunks_exact(codebook.dim)) {
            let id = *id as usize;
            part.counts[id] += 1;
            let sums = &mut part.sums[id * codebook.dim..(id + 1) * codebook.dim];
            sums.iter_mut()
                .zip(row)
                .for_each(|(s, v)| *s += f64::from(*v));
        }
        Ok(part)
    });
    let parts: Vec<Sums> = parts.collect::<Result<_>>()?;
    let mut total = Sums {
        sums: vec![0.0; codebook.k * codebook.dim],
        counts: vec![0; codebook.k],
    };
    for part in parts {
        total
            .sums
            .iter_mut()
            .zip(part.sums)
            .for_each(|(a, b)| *a += b);
        total
            .counts
            .iter_mut()
            .zip(part.counts)
            .for_each(|(a, b)| *a += b);
    }
    Ok(total)
}

/// Moves every centre to the mean of what it absorbed before and now.
fn absorb(codebook: &mut Codebook, sums: &Sums) {
    let dim = codebook.dim;
    for (id, &count) in sums
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let before = f64::from(codebook.weights[id]);
        let after = before + f64::from(count);
        let center = &mut codebook.centers[id * dim..(id + 1) * dim];
        for (value, sum) in center.iter_mut().zip(&sums.sums[id * dim..]) {
            *value = ((f64::from(*value) * before + sum) / after) as f32;
        }
        codebook.weights[id] = after as f32;
    }
}

/// scikit-learn's `_mini_batch_step`: centres with less than 1 % of the largest weight (at most half as many as there are
/// patches) move to distinct random patches and get the smallest kept weight.
fn reassign(codebook: &mut Codebook, tiles: &[Vec<f32>], rng: &mut impl Rng) {
    let dim = codebook.dim;
    let largest = codebook.weights.iter().copied().fold(0.0, f32::max);
    let mut poor: Vec<usize> = (0..codebook.k)
        .filter(|&i| codebook.weights[i] < REASSIGNMENT_RATIO * largest)
        .collect();
    let ends: Vec<usize> = tiles
        .iter()
        .scan(0, |sum, t| {
            *sum += t.len() / dim;
            Some(*sum)
        })
        .collect();
    let n = ends.last().copied().unwrap_or(0);
    poor.sort_by(|a, b| {
        codebook.weights[*a]
            .total_cmp(&codebook.weights[*b])
            .then(a.cmp(b))
    });
    poor.truncate(n / 2);
    let kept = (0..codebook.k)
        .filter(|i| !poor.contains(i))
        .map(|i| codebook.weights[i])
        .fold(f32::MAX, f32::min);
    for (&id, at) in poor.iter().zip(index::sample(rng, n, poor.len())) {
        let tile = ends.partition_point(|&end| end <= at);
        let first = if tile == 0 { 0 } else { ends[tile - 1] };
        let row = &tiles[tile][(at - first) * dim..][..dim];
        codebook.centers[id * dim..(id + 1) * dim].copy_from_slice(row);
        codebook.weights[id] = kept;
    }
}
