//! DINO's weighted k-NN (`eval_knn.py`): cosine similarity, with weights `exp(similarity / temperature)`.
//!
//! Products in f32 select candidates, whose similarities are then computed in f64 from the features as they are. So neighbours and votes
//! depend on the features only, not on the order of a product's sums, and equal those of a program that computes in f64. Of equal
//! similarities the image with the lower index is nearer; of equal votes the lower class wins. Features from another program differ from
//! these by rounding (about 1e-6 relative in f32), which decides the images whose two best classes have almost equal votes.

use rayon::prelude::*;

use crate::error::{Error, Result};
use tessera_kernels::product::{Mat, product};

/// Vectors with labels.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// `[images, dim]`.
    pub features: &'a [f32],
    /// Label of each image.
    pub labels: &'a [u32],
}

/// Predicts the class of each query; the lower class wins a tie. `queries` has the shape `[queries, dim]`.
///
/// # Errors
/// [`Error::Config`] if the bank has fewer than `k` images, [`Error::Data`] if a feature is not finite.
pub fn classify(
    bank: Labelled<'_>,
    queries: &[f32],
    dim: usize,
    classes: usize,
    k: usize,
    temperature: f64,
) -> Result<Vec<u32>> {
    let images = bank.labels.len();
    if k > images {
        return Err(Error::Config(format!(
            "knn.k {k} is more than the {images} train images; lower it"
        )));
    }
    for (split, features) in [("train", bank.features), ("validation", queries)] {
        if let Some(at) = features.iter().position(|value| !value.is_finite()) {
            return Err(Error::Data(format!(
                "k-NN: {split} image {}: found the feature value {}, expected finite numbers; check the encoder",
                at / dim,
                features[at]
            )));
        }
    }
    let (bank_vectors, vectors) = (bank.features, normalised(bank.features, dim));
    let tiles = queries.par_chunks(QUERIES * dim).map(|queries| {
        let candidates = candidates(&vectors, &normalised(queries, dim), dim, k);
        let each = candidates.into_iter().zip(queries.chunks_exact(dim));
        each.map(|(candidates, query)| {
            let near = nearest(bank_vectors, query, &candidates, k);
            vote(&near, bank.labels, classes, temperature)
        })
        .collect::<Vec<u32>>()
    });
    Ok(tiles.collect::<Vec<_>>().concat())
}

/// Queries per task and bank images per product: their similarities (512 KiB) fit into the L2 cache.
const QUERIES: usize = 32;
const IMAGES: usize = 4096;

/// A similarity and the index of its image.
type Near<T> = (T, usize);

/// Finds the rows of `bank` that may be among the `k` nearest for each of `queries`. All vectors have unit length.
fn candidates(bank: &[f32], queries: &[f32], dim: usize, k: usize) -> Vec<Vec<Near<f32>>> {
    let rows = queries.len() / dim;
    // Twice the error of a sum of `dim` products in any order, and of the vectors' lengths.
    let margin = (2 * dim + 16) as f32 * f32::EPSILON;
    let mut near: Vec<Vec<Near<f32>>> = vec![Vec::with_capacity(k + IMAGES); rows];
    for (tile, images) in bank.chunks(IMAGES * dim).enumerate() {
        let count = images.len() / dim;
        let scores = product(
            Mat::new(queries, rows, dim),
            Mat::new(images, count, dim).t(),
        );
        for (near, scores) in near.iter_mut().zip(scores.chunks_exact(count)) {
            let floor = floor(near, k, margin);
            let found = scores.iter().copied().zip(tile * IMAGES..);
            near.extend(found.filter(|(score, _)| floor.is_none_or(|floor| *score >= floor)));
            if let Some(floor) = self::floor(near, k, margin) {
                near.retain(|(score, _)| *score >= floor);
            }
        }
    }
    near
}

/// Returns the least similarity of a candidate; `None` with fewer than `k` of them. Reorders them.
fn floor(near: &mut [Near<f32>], k: usize, margin: f32) -> Option<f32> {
    if near.len() < k {
        return None;
    }
    let (_, last, _) = near.select_nth_unstable_by(k - 1, |a, b| b.0.total_cmp(&a.0));
    Some(last.0 - margin)
}

/// Returns the `k` nearest of the `candidates` among the rows of `bank` with similarities in f64, nearest first; of equal ones the
/// lower index.
fn nearest(bank: &[f32], query: &[f32], candidates: &[Near<f32>], k: usize) -> Vec<Near<f64>> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let length = dot(query, query).sqrt();
    let mut near: Vec<Near<f64>> = (candidates.iter())
        .map(|&(_, image)| {
            let row = &bank[image * query.len()..][..query.len()];
            let lengths = length * dot(row, row).sqrt();
            (dot(row, query) / lengths.max(f64::MIN_POSITIVE), image)
        })
        .collect();
    near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    near.truncate(k);
    near
}

/// Returns the class with the largest weight; the lower class wins a tie.
fn vote(near: &[Near<f64>], labels: &[u32], classes: usize, temperature: f64) -> u32 {
    let mut votes = vec![0.0; classes];
    // exp overflows from 709.8 on, and is 0 below -745, which would leave no votes; up to 700 nothing is subtracted, and votes stay DINO's to
    // the bit.
    let largest = near.first().map_or(0.0, |(similarity, _)| *similarity);
    let shift = if (largest / temperature).abs() > 700.0 {
        largest
    } else {
        0.0
    };
    for (similarity, image) in near {
        votes[labels[*image] as usize] += ((similarity - shift) / temperature).exp();
    }
    let mut best = 0;
    (1..classes).for_each(|class| {
        if votes[class] > votes[best] {
            best = class;
        }
    });
    best as u32
}

/// Scales each row to unit length.
fn normalised(features: &[f32], dim: usize) -> Vec<f32> {
    let rows = features.chunks_exact(dim).flat_map(|row| {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        row.iter().map(move |v| v / norm)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{formula, json, numbers};

    #[test]
    fn votes_are_weighted_by_similarity() {
        // At a low temperature, one close neighbour of class 1 outweighs two distant ones of class 0.
        let bank = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let bank = Labelled {
            features: &bank,
            labels: &[1, 0, 0],
        };
        let query = [2.0, 0.4];
        assert_eq!(classify(bank, &query, 2, 2, 3, 0.07).unwrap(), [1]);
        assert_eq!(classify(bank, &query, 2, 2, 3, 10.0).unwrap(), [0]);
        assert_eq!(classify(bank, &query, 2, 2, 1, 10.0).unwrap(), [1]);
        let bad = classify(bank, &[f32::NAN, 0.4], 2, 2, 1, 1.0);
        let error = bad.unwrap_err().to_string();
        assert!(error.contains("validation image 0"), "{error}");
        // All images may point away from the query; one of class 1 does so least.
        let away = [-0.4, -2.0];
        for temperature in [1.4e-3, 1e-3, 1e-4, 1e-6, 1e-320] {
            for query in [query, away] {
                assert_eq!(
                    classify(bank, &query, 2, 2, 3, temperature).unwrap(),
                    [1],
                    "{query:?} at {temperature}"
                );
            }
        }
        assert!(
            classify(bank, &query, 2, 2, 4, 1.0)
                .unwrap_err()
                .to_string()
                .contains("more than the 3 train images")
        );
    }

    /// The bank needs several products; the result must match the plain definition.
    #[test]
    fn neighbours_are_found_across_products() {
        let (bank, queries) = (formula(3, 9000 * 4, 1.0), formula(4, 70 * 4, 1.0));
        let unit = (normalised(&bank, 4), normalised(&queries[..33 * 4], 4));
        let found = candidates(&unit.0, &unit.1, 4, 25);
        for (candidates, query) in found.iter().zip(queries.chunks(4)) {
            let near = nearest(&bank, query, candidates, 25);
            assert_eq!(near, plain_nearest(&bank, query, 25));
        }
    }

    /// The definition, in f64.
    fn plain_nearest(bank: &[f32], query: &[f32], k: usize) -> Vec<Near<f64>> {
        let all: Vec<Near<f32>> = (0..bank.len() / query.len()).map(|i| (0.0, i)).collect();
        nearest(bank, query, &all, k)
    }

    /// Similarities that differ by less than f32 can tell, and equal ones: f64 decides, then the index.
    #[test]
    fn nearly_equal_similarities_are_decided_in_f64_and_equal_ones_by_index() {
        let (dim, k) = (64, 3);
        let query = formula(5, dim, 1.0);
        // Image i is the query with one number changed by a few ten thousandths, or not at all for every tenth image.
        let bank: Vec<f32> = (0..500)
            .flat_map(|image| {
                let mut row = query.clone();
                if image % 10 != 9 {
                    let at = image * 7 % dim;
                    row[at] *= 1.0 + 3e-4 * (1 + image % 3) as f32;
                }
                row
            })
            .collect();
        let unit = (normalised(&bank, dim), normalised(&query, dim));
        let found = candidates(&unit.0, &unit.1, dim, k).remove(0);
        let near = nearest(&bank, &query, &found, k);
        assert_eq!(near, plain_nearest(&bank, &query, k));
        let equal: Vec<usize> = near.iter().map(|(_, image)| *image).collect();
        assert_eq!(equal, [9, 19, 29]);
    }

    /// Compared with DINO's definition in numpy (`tests/fixtures/knn/make.py`).
    #[test]
    fn predictions_match_dino() {
        let vectors = |salt: u32, count: usize| -> (Vec<f32>, Vec<u32>) {
            let centers = formula(77, 7 * 16, 1.0);
            let values = formula(salt, count * 16, 1.0);
            let labels: Vec<u32> = (0..count as u32).map(|i| i % 7).collect();
            let values = values.iter().enumerate().map(|(at, v)| {
                let class = at / 16 % 7;
                v * 1.5 + centers[class * 16 + at % 16]
            });
            (values.collect(), labels)
        };
        let ((bank, labels), (queries, truth)) = (vectors(1, 300), vectors(2, 200));
        let expected = json("knn/numpy.json");
        let cases = expected.as_object().unwrap();
        assert_eq!(cases.len(), 5);
        for (case, expected) in cases {
            let (k, temperature) = case.split_once(' ').unwrap();
            let bank = Labelled {
                features: &bank,
                labels: &labels,
            };
            let (k, temperature) = (k.parse().unwrap(), temperature.parse().unwrap());
            let found = classify(bank, &queries, 16, 7, k, temperature).unwrap();
            let predictions = numbers(&expected["predictions"]);
            assert!(
                found.iter().map(|c| f64::from(*c)).eq(predictions),
                "{case}"
            );
            let right = found.iter().zip(&truth).filter(|(a, b)| a == b).count();
            assert_eq!(
                right as f64 / 2.0,
                expected["top1"].as_f64().unwrap(),
                "{case}"
            );
        }
    }
}
