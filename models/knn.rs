//! DINO's weighted k-NN (`eval_knn.py`): cosine on normalised vectors, weights `exp(similarity / temperature)`.

use rayon::prelude::*;

use crate::{Error, Result};

/// Vectors with labels.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// `[images, dim]`.
    pub features: &'a [f32],
    /// Label of each image.
    pub labels: &'a [u32],
}

/// Predicted class of each query, the lower one on a tie.
///
/// # Errors
/// [`Error::Config`] when there are fewer than `k` images in the bank.
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
    let normalised = normalised(bank.features, dim);
    let queries = self::normalised(queries, dim);
    let predict = |query: &[f32]| {
        let mut near: Vec<(f32, usize)> = normalised
            .chunks_exact(dim)
            .map(|row| row.iter().zip(query).map(|(a, b)| a * b).sum())
            .zip(0..)
            .collect();
        // Largest similarity first; the earlier image on a tie.
        let by_similarity =
            |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        near.select_nth_unstable_by(k - 1, by_similarity);
        near.truncate(k);
        near.sort_unstable_by(by_similarity);
        let mut votes = vec![0.0; classes];
        for (similarity, image) in near {
            votes[bank.labels[image] as usize] += (f64::from(similarity) / temperature).exp();
        }
        let mut best = 0;
        (1..classes).for_each(|c| {
            if votes[c] > votes[best] {
                best = c
            }
        });
        best as u32
    };
    Ok(queries.par_chunks_exact(dim).map(predict).collect())
}

/// Rows of length one.
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
        // One close neighbour of class 1 outweighs two far ones of class 0 at a low temperature, not at a high one.
        let bank = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let bank = Labelled {
            features: &bank,
            labels: &[1, 0, 0],
        };
        let query = [2.0, 0.4];
        assert_eq!(classify(bank, &query, 2, 2, 3, 0.07).unwrap(), [1]);
        assert_eq!(classify(bank, &query, 2, 2, 3, 10.0).unwrap(), [0]);
        assert_eq!(classify(bank, &query, 2, 2, 1, 10.0).unwrap(), [1]);
        assert!(
            classify(bank, &query, 2, 2, 4, 1.0)
                .unwrap_err()
                .to_string()
                .contains("more than the 3 train images")
        );
    }

    /// `tests/fixtures/knn/make.py`: DINO's definition in numpy.
    #[test]
    fn predictions_are_dinos() {
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
