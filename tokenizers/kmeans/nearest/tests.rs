use tessera_kernels::ops::kmeans::bf16;
use tessera_models::rng::keyed_rng;
use tessera_testing::tell;

use super::*;
use rand::Rng;

/// Returns both implementations, or the only one that this machine supports.
fn both(centers: &[f32], dim: usize, bias: &[f32]) -> Vec<(&'static str, Nearest)> {
    let products = Scores::Products(Products::new(centers, dim, bias));
    let halves = Halves::new(centers, dim, bias).map(Scores::Halves);
    let small = dim < 24 || bias.len() < 8;
    assert_eq!(halves.is_some(), bf16::is_available() && !small);
    if halves.is_none() && !small {
        tell("SKIPPED, k-means by bf16 products: this machine does not have them");
    }
    let all = [("f32", Some(products)), ("bf16", halves)];
    let with = |scores| Nearest::with(centers, dim, bias, scores);
    all.into_iter()
        .filter_map(|(name, scores)| Some((name, with(scores?))))
        .collect()
}

/// Assigns row by row, by definition.
fn reference(rows: &[f32], centers: &[f32], dim: usize, bias: &[f32]) -> Vec<u32> {
    let assign = |x: &[f32]| {
        let mut best = (f32::NEG_INFINITY, 0);
        for (id, (center, bias)) in (0..).zip(centers.chunks(dim).zip(bias)) {
            let score = pairs::dot(x, center) + bias;
            if score > best.0 {
                best = (score, id);
            }
        }
        best.1
    };
    rows.chunks(dim).map(assign).collect()
}

/// Returns rows that are hard to assign: random ones, and midpoints of two centres with a small disturbance.
fn rows_among(centers: &[f32], dim: usize, n: usize, rng: &mut impl Rng) -> Vec<f32> {
    let k = centers.len() / dim;
    let spread = centers.iter().map(|c| c.abs()).fold(0.0, f32::max);
    let mut rows = Vec::new();
    for at in 0..n {
        let [a, b] = [rng.random_range(0..k), rng.random_range(0..k)];
        for i in 0..dim {
            let middle = (centers[a * dim + i] + centers[b * dim + i]) / 2.0;
            let noise = spread * rng.random_range(-1.0..1.0_f32);
            rows.push(match at % 3 {
                0 => middle + noise,
                1 => middle * (1.0 + noise / spread * 1e-6),
                _ => middle + noise * 1e-3,
            });
        }
    }
    rows
}

#[test]
fn ids_equal_the_reference_including_ties() {
    let mut rng = keyed_rng(3, "nearest", 0, 0);
    for (n, dim, k) in [
        (1, 24, 8),
        (100, 25, 9),
        (500, 48, 50),
        (200, 100, 33),
        (300, 768, 50),
        (150, 192, 700),
        (70, 7, 30),
    ] {
        // Around zero, far from it (as pixels are), very small, large.
        for (scale, offset) in [
            (1.0, 0.0),
            (1.0, 40.0),
            (1e-18, 0.0),
            (1e15, 0.0),
            (1e-3, 1.0),
        ] {
            let mut centers: Vec<f32> = (0..k * dim)
                .map(|_| offset + scale * rng.random_range(-1.0..1.0_f32))
                .collect();
            // Two equal centres: the first wins.
            centers.copy_within(..dim, (k - 1) * dim);
            let rows = rows_among(&centers, dim, n, &mut rng);
            for bias in [euclidean_bias(&centers, dim), vec![0.0; k]] {
                let expected = reference(&rows, &centers, dim, &bias);
                for (name, nearest) in both(&centers, dim, &bias) {
                    let found = nearest.assign(&rows).unwrap();
                    assert_eq!(
                        found, expected,
                        "{name}, {n}x{dim}, k {k}, {scale} around {offset}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_gets_the_same_centre_in_any_batch() {
    let mut rng = keyed_rng(4, "nearest", 0, 0);
    let centers: Vec<f32> = (0..50 * 40).map(|_| rng.random()).collect();
    let rows = rows_among(&centers, 40, 500, &mut rng);
    for (name, nearest) in both(&centers, 40, &euclidean_bias(&centers, 40)) {
        let together = nearest.assign(&rows).unwrap();
        for at in [0, 7, 47, 48, 499] {
            let alone = nearest.assign(&rows[at * 40..(at + 1) * 40]).unwrap();
            assert_eq!(alone, [together[at]], "{name}, row {at}");
        }
    }
}

#[test]
fn few_rows_of_many_are_scored_again() {
    let mut rng = keyed_rng(5, "nearest", 0, 0);
    let normal =
        |rng: &mut rand_chacha::ChaCha8Rng| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let rows: Vec<f32> = (0..480 * 192).map(|_| normal(&mut rng)).collect();
    let centers = &rows[..100 * 192];
    for (name, nearest) in both(centers, 192, &euclidean_bias(centers, 192)) {
        let mut scratch = nearest.scratch();
        let mut again = 0;
        for tile in rows.chunks(TILE * 192) {
            let tops = match &nearest.scores {
                Scores::Halves(halves) => halves.of(
                    tile,
                    &[],
                    scratch.tile.as_mut().unwrap(),
                    &mut scratch.scores,
                ),
                Scores::Products(products) => {
                    products.of(tile, &mut scratch.padded, &mut scratch.scores);
                    products.tops(&scratch.scores)
                }
            };
            for (row, x) in tile.chunks(192).enumerate() {
                let least = nearest.margin.below(tops.best[row], pairs::dot(x, x));
                again += usize::from(tops.second[row] >= least);
            }
        }
        // Even with noise, the hardest case for the bound, at least half of the rows need no second scoring.
        assert!(
            again < if name == "f32" { 10 } else { 240 },
            "{name}: {again} of 480"
        );
    }
}

#[test]
fn the_error_names_the_first_row_that_cannot_be_assigned() {
    let mut rng = keyed_rng(6, "nearest", 0, 0);
    let centers: Vec<f32> = (0..20 * 32).map(|_| rng.random()).collect();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 47, 48, 800, 999] {
            let mut rows: Vec<f32> = (0..1000 * 32).map(|_| rng.random()).collect();
            rows[at * 32 + 5] = bad;
            rows[999 * 32] = f32::NAN;
            for (name, nearest) in both(&centers, 32, &euclidean_bias(&centers, 32)) {
                let found = nearest.assign(&rows);
                assert_eq!(
                    found,
                    Err(NotFinite { row: at }),
                    "{name}, {bad} in row {at}"
                );
            }
        }
    }
}
