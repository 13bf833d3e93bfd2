//! DINO's weighted k-NN (`eval_knn.py`): cosine similarity, with weights `exp(similarity / temperature)`.

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
/// [`Error::Config`] if the bank has fewer than `k` images.
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
    let vectors = normalised(bank.features, dim);
    let queries = normalised(queries, dim);
    let tiles = queries.par_chunks(QUERIES * dim).map(|queries| {
        let near = nearest(&vectors, queries, dim, k).into_iter();
        near.map(|near| vote(&near, bank.labels, classes, temperature))
            .collect::<Vec<u32>>()
    });
    Ok(tiles.collect::<Vec<_>>().concat())
}

/// Queries per task and bank images per product: their similarities (512 KiB) fit into the L2 cache.
const QUERIES: usize = 32;
const IMAGES: usize = 4096;

/// A similarity and the index of its image.
type Near = (f32, usize);

/// Orders by descending similarity; the earlier image wins a tie.
fn by_similarity(a: &Near, b: &Near) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Finds the `k` nearest rows of `bank` for each of `queries`, nearest first.
fn nearest(bank: &[f32], queries: &[f32], dim: usize, k: usize) -> Vec<Vec<Near>> {
    let rows = queries.len() / dim;
    let mut near: Vec<Vec<Near>> = vec![Vec::with_capacity(k + IMAGES); rows];
    for (tile, images) in bank.chunks(IMAGES * dim).enumerate() {
        let count = images.len() / dim;
        let scores = product(
            Mat::new(queries, rows, dim),
            Mat::new(images, count, dim).t(),
        );
        for (near, scores) in near.iter_mut().zip(scores.chunks_exact(count)) {
            // Later images lose ties, so with k neighbours only a strictly larger similarity counts.
            let floor = (near.len() == k).then(|| near[k - 1].0);
            let found = scores.iter().copied().zip(tile * IMAGES..);
            near.extend(found.filter(|(score, _)| floor.is_none_or(|floor| *score > floor)));
            if near.len() > k {
                near.select_nth_unstable_by(k - 1, by_similarity);
                near.truncate(k);
            }
            near.sort_unstable_by(by_similarity);
        }
    }
    near
}

/// Returns the class with the largest weight; the lower class wins a tie.
fn vote(near: &[Near], labels: &[u32], classes: usize, temperature: f64) -> u32 {
    let mut votes = vec![0.0; classes];
    // exp overflows from 709.8 on; below 700 nothing is subtracted, and votes stay DINO's to the bit.
    let largest = near
        .first()
        .map_or(0.0, |(s, _)| f64::from(*s) / temperature);
    let shift = if largest > 700.0 { largest } else { 0.0 };
    for (similarity, image) in near {
        let exponent = f64::from(*similarity) / temperature - shift;
        // At the smallest temperatures the quotient itself is infinite: only the nearest image counts then.
        votes[labels[*image] as usize] += if exponent.is_nan() {
            1.0
        } else {
            exponent.exp()
        };
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
        for temperature in [1.4e-3, 1e-3, 1e-6] {
            assert_eq!(
                classify(bank, &query, 2, 2, 3, temperature).unwrap(),
                [1],
                "{temperature}"
            );
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
        let found = nearest(&bank, &queries[..33 * 4], 4, 25);
        for (near, query) in found.iter().zip(queries.chunks(4)) {
            let dot = |row: &[f32]| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
            let mut all: Vec<f32> = bank.chunks(4).map(dot).collect();
            assert!(near.iter().all(|(s, i)| (s - all[*i]).abs() < 1e-6));
            all.sort_by(|a, b| b.total_cmp(a));
            let close = |(n, a): (&Near, &f32)| (n.0 - a).abs() < 1e-6;
            assert!(near.len() == 25 && near.iter().zip(&all).all(close));
        }
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
