//! Compares patches, K-means, counting and HOG with the references.

use super::host::{Buffer, run};
use super::numerics::{assert_close, f32s, numbers, outcome, u32s};
use super::*;
use crate::device::launch::Dtype;
use crate::ops::patchify::Order;
use crate::ops::patchify::launch::Images;

#[test]
fn patches_of_floats_and_of_bytes() {
    for (batch, side, patch) in [(1, 2, 1), (2, 12, 4), (1, 21, 7)] {
        let all = batch * (side / patch) * (side / patch);
        let bytes: Vec<f64> = (0..batch * 3 * side * side)
            .map(|i| (i * 37 % 256) as f64)
            .collect();
        let [mean, std] = [[0.5, 0.0, -0.25], [0.25, 2.0, 1.0]];
        // The same images in the shape [batch, 3, side, side].
        let floats: Vec<f64> = (0..bytes.len())
            .map(|at| {
                let (image, channel) = (at / (3 * side * side), at / (side * side) % 3);
                let pixel = at % (side * side);
                let byte = bytes[(image * side * side + pixel) * 3 + channel];
                (byte / 255.0 - mean[channel]) / std[channel]
            })
            .collect();
        let narrow: Vec<f32> = floats.iter().map(|v| *v as f32).collect();
        let keep: Vec<u32> = (0..all as u32)
            .rev()
            .step_by(if all > 2 { 2 } else { 1 })
            .collect();
        for order in [Order::ChannelFirst, Order::ChannelLast] {
            let images = Images {
                batch,
                side,
                patch,
                order,
            };
            let every = patchify::split(&narrow, side, patch, order);
            let dim = 3 * patch * patch;
            let expected = keep
                .iter()
                .flat_map(|row| &every[*row as usize * dim..][..dim]);
            let expected: Vec<f64> = expected.map(|v| f64::from(*v)).collect();
            for float in [Float::F32, Float::Bf16] {
                let allowed = if float == Float::F32 { 1e-6 } else { 4e-3 };
                let launch = patchify::launch::from_floats(float, images, keep.len()).unwrap();
                let given = vec![("images", f32s(&floats)), ("keep", u32s(&keep))];
                let Some([out]) = outcome(&[launch], given, ["out"]) else {
                    return;
                };
                assert_close(&out, &expected, 1e-6, allowed, "of floats");
                let launch = patchify::launch::from_bytes(float, images, keep.len()).unwrap();
                let given = vec![
                    ("images", Buffer::new(Dtype::U8, &bytes)),
                    ("keep", u32s(&keep)),
                    ("mean", f32s(&mean)),
                    ("std", f32s(&std)),
                ];
                let Some([out]) = outcome(&[launch], given, ["out"]) else {
                    return;
                };
                assert_close(&out, &expected, 1e-6, allowed, "of bytes");
            }
        }
    }
}

#[test]
fn rows_are_normalized_as_on_the_cpu() {
    for (rows, dim) in [(1, 2), (9, 27), (3, 768)] {
        let values = numbers(30, rows * dim, 1.0, 10.0);
        let launch = patchify::launch::normalize(rows, dim).unwrap();
        let Some([found]) = outcome(&[launch], vec![("values", f32s(&values))], ["values"]) else {
            return;
        };
        let mut expected: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        patchify::normalize(&mut expected, dim);
        let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
        assert_close(&found, &expected, 1e-4, 1e-5, "normalised");
    }
}

/// Uses `tests/fixtures/render/pillow.json`, also the fixture of the CPU renderer: box, side, planes of bytes of one generated image.
#[test]
fn boxes_are_resized_to_the_bytes_of_pillow() {
    // The fixture is part of the program, which also runs on machines without the repository.
    let text = include_str!("../../../../../tests/fixtures/render/pillow.json");
    let fixture: Vec<(Vec<f64>, usize, Vec<f64>)> = serde_json::from_str(text).unwrap();
    let (width, height) = (37, 29);
    let byte = |x: usize, y: usize, c: usize| (x * x * (c + 1) + y * 7 * (3 - c) + x * y) % 256;
    let pixels = (0..width * height * 3).map(|i| byte(i / 3 % width, i / 3 / width, i % 3) as u8);
    let pixels: Vec<u8> = pixels.collect();
    for (corners, side, expected) in fixture {
        let of = resample::launch::Crop {
            size: [width, height],
            from: [corners[0], corners[1]],
            length: [corners[2] - corners[0], corners[3] - corners[1]],
            flip: false,
        };
        // Two boxes, the second one mirrored.
        let boxes = [of, resample::launch::Crop { flip: true, ..of }];
        let tables = resample::launch::Tables::of(&boxes, side);
        let launches = resample::launch::resample(&tables, side).unwrap();
        let pieces = tables.regions.iter().flat_map(|of| of.pieces(&pixels));
        let read = pieces.flatten().map(|byte| f64::from(*byte)).collect();
        let numbers = |dtype, values: Vec<f64>| Buffer::new(dtype, &values);
        let row_at = tables.row_at.iter().map(|v| *v as f64).collect();
        let weights = tables.weights.iter().map(|v| f64::from(*v)).collect();
        let given = vec![
            ("pixels", numbers(Dtype::U8, read)),
            ("row_at", numbers(Dtype::U64, row_at)),
            ("image_of", u32s(&tables.image_of)),
            ("across", u32s(&tables.across)),
            ("down", u32s(&tables.down)),
            ("weights", numbers(Dtype::I32, weights)),
        ];
        let Some([out]) = outcome(&launches, given, ["out"]) else {
            return;
        };
        for (at, found) in out.iter().enumerate() {
            let (image, channel) = (at / (side * side * 3), at % 3);
            let (y, x) = (at / (side * 3) % side, at / 3 % side);
            let x = if image == 1 { side - 1 - x } else { x };
            let expected = expected[(channel * side + y) * side + x];
            assert_eq!(
                *found, expected,
                "{corners:?} to {side}, image {image}, {channel} {y} {x}"
            );
        }
    }
}

/// Returns small integers, so that sums are exact in any order and ties are exact.
fn integers(salt: u32, count: usize, most: f64) -> Vec<f64> {
    numbers(salt, count, most + 0.49, 0.0)
        .iter()
        .map(|v| v.round())
        .collect()
}

#[test]
fn kmeans_assigns_rows_and_the_lowest_centre_wins_a_tie() {
    for (n, k, dim) in [(1, 1, 1), (130, 65, 17), (50, 3, 48), (5, 200, 33)] {
        let (rows, mut centers) = (integers(31, n * dim, 2.0), integers(32, k * dim, 2.0));
        // Two copies of the last centre, at positions in other tiles.
        if k > 2 {
            let last = centers[(k - 1) * dim..].to_vec();
            centers[..dim].copy_from_slice(&last);
            centers[dim..2 * dim].copy_from_slice(&last);
        }
        let launches = [
            kmeans::launch::bias(k, dim).unwrap(),
            kmeans::launch::assign(n, k, dim).unwrap(),
        ];
        let given = vec![("rows", f32s(&rows)), ("centers", f32s(&centers))];
        let names = ["bias", "id", "best"];
        let Some([bias, id, best]) = outcome(&launches, given, names) else {
            return;
        };
        let squares = |c: &[f64]| -0.5 * c.iter().map(|v| v * v).sum::<f64>();
        let expected: Vec<f64> = centers.chunks(dim).map(squares).collect();
        assert_eq!(bias, expected);
        let expected = kmeans::reference::assign(&rows, &centers, &bias, dim);
        let (ids, scores): (Vec<u32>, Vec<f64>) = expected.into_iter().unzip();
        let found: Vec<u32> = id.iter().map(|v| *v as u32).collect();
        assert_eq!(found, ids, "{n} {k} {dim}");
        assert_eq!(best, scores);
    }
}

#[test]
fn a_row_with_a_nan_gets_no_score() {
    let launch = kmeans::launch::assign(2, 3, 4).unwrap();
    let given = vec![
        ("rows", f32s(&[1.0, 2.0, 3.0, 4.0, 1.0, f64::NAN, 3.0, 4.0])),
        ("centers", f32s(&numbers(33, 12, 1.0, 0.0))),
        ("bias", f32s(&[0.0; 3])),
    ];
    let Some([id, best]) = outcome(&[launch], given, ["id", "best"]) else {
        return;
    };
    assert!(best[0].is_finite() && best[1] == f64::NEG_INFINITY && id[1] == 0.0);
}

#[test]
fn kmeans_sums_are_exact_integers() {
    let (n, k, dim) = (300, 7, 35);
    let rows = numbers(34, n * dim, 3.0, 0.0);
    let ids: Vec<u32> = (0..n).map(|row| (row * row % k) as u32).collect();
    let largest = rows.iter().fold(0.0_f64, |a, v| a.max(v.abs()));
    let scale = kmeans::launch::fixed_point_scale(largest as f32, n);
    assert!(largest * n as f64 * f64::from(scale) < 2.0_f64.powi(62));
    assert!(largest * n as f64 * f64::from(scale) > 2.0_f64.powi(59));
    let launch = kmeans::launch::accumulate(n, k, dim, scale).unwrap();
    let given = [
        ("rows", f32s(&rows)),
        ("id", u32s(&ids)),
        ("sums", Buffer::new(Dtype::I64, &vec![0.0; k * dim])),
        ("counts", Buffer::new(Dtype::U64, &vec![0.0; k])),
    ];
    let Some(after) = run(&[launch], &given) else {
        return;
    };
    let (sums, counts) = kmeans::reference::accumulate(&rows, &ids, k, dim);
    let found: Vec<f64> = after["sums"]
        .values()
        .iter()
        .map(|s| s / f64::from(scale))
        .collect();
    // Both sums are in f64. Only the f32 product with a power of two was rounded.
    assert_close(&found, &sums, 1e-10, 1e-10, "sums");
    let counts: Vec<f64> = counts.iter().map(|c| *c as f64).collect();
    assert_eq!(after["counts"].values(), counts);
}

/// Small integers make sums exact in any order. The second run contains a NaN and an infinity.
#[test]
fn runs_of_rows_equal_the_reference() {
    for (n, dim) in [(1, 1), (47, 5), (48, 33), (145, 48)] {
        let mut rows = integers(36, n * dim, 3.0);
        let best = integers(37, n, 9.0);
        if n > 60 {
            rows[60 * dim + 2] = f64::NAN;
            rows[59 * dim + 1] = f64::INFINITY;
            // Two rows are equally far; the lower one is chosen.
            (0..dim).for_each(|d| (rows[100 * dim + d], rows[109 * dim + d]) = (9.0, 9.0));
        }
        let mut best = best;
        if n > 109 {
            (best[100], best[109]) = (-5.0, -5.0);
        }
        let launch = kmeans::launch::runs(n, dim).unwrap();
        let given = vec![("rows", f32s(&rows)), ("best", f32s(&best))];
        let names = ["squares", "inertia", "far", "far_row", "failed"];
        let Some([squares, inertia, far, far_row, failed]) = outcome(&[launch], given, names)
        else {
            return;
        };
        let each = rows
            .chunks(kmeans::launch::RUN * dim)
            .zip(best.chunks(kmeans::launch::RUN));
        assert_eq!(squares.len(), n.div_ceil(kmeans::launch::RUN));
        for (at, (rows, best)) in each.enumerate() {
            let first = at * kmeans::launch::RUN;
            let expected = kmeans::reference::run(rows, best, dim, first);
            let failed = (failed[at] != n as f64).then_some(failed[at] as usize);
            let found = (
                squares[at],
                inertia[at],
                far[at],
                far_row[at] as usize,
                failed,
            );
            assert_eq!(found, expected, "{n} {dim}, run {at}");
        }
    }
}

#[test]
fn the_largest_magnitude_is_found_and_nan_exceeds_all() {
    for (n, dim, value) in [
        (1, 1, -7.5),
        (40, 33, -1e30),
        (300, 17, f64::INFINITY),
        (3, 3, f64::NAN),
    ] {
        let mut rows = numbers(38, n * dim, 3.0, 0.0);
        rows[n * dim / 2] = value;
        let launch = kmeans::launch::largest(n, dim).unwrap();
        let given = vec![("rows", f32s(&rows)), ("largest", u32s(&[0]))];
        let Some([found]) = outcome(&[launch], given, ["largest"]) else {
            return;
        };
        let found = f32::from_bits(found[0] as u32);
        let expected = (value as f32).abs();
        assert!(
            found == expected || found.is_nan() && expected.is_nan(),
            "{found} {value}"
        );
    }
}

#[test]
fn the_scale_of_sums_prevents_overflow() {
    for (largest, n) in [
        (0.0, 0),
        (1.0, 1),
        (1e-30, 1 << 30),
        (3e38, 1 << 40),
        (255.0, 1000),
    ] {
        let scale = kmeans::launch::fixed_point_scale(largest, n);
        assert!(scale.is_normal() && scale > 0.0, "{largest} {n}: {scale}");
        let most = f64::from(largest) * n as f64 * f64::from(scale);
        assert!(most <= 2.0_f64.powi(62), "{largest} {n}: {most}");
    }
}

#[test]
fn pairs_are_counted_and_out_of_range_values_are_reported() {
    let (images, patches, codes, classes) = (37, 11, 5, 3);
    let mut ids: Vec<u32> = (0..images * patches)
        .map(|i| (i * i % codes) as u32)
        .collect();
    let mut labels: Vec<u32> = (0..images).map(|i| (i * 7 % classes) as u32).collect();
    (ids[3], ids[100], labels[36]) = (codes as u32, u32::MAX, classes as u32);
    let mut counts: Vec<f64> = (0..codes * classes).map(|i| i as f64).collect();
    let given = [
        ("ids", u32s(&ids)),
        ("labels", u32s(&labels)),
        ("counts", Buffer::new(Dtype::U64, &counts)),
        ("outside", Buffer::new(Dtype::U64, &[0.0])),
    ];
    let launch = count::launch::pairs(images, patches, codes, classes).unwrap();
    let Some(after) = run(&[launch], &given) else {
        return;
    };
    let mut outside = 0.0;
    for (at, id) in ids.iter().enumerate() {
        let label = labels[at / patches];
        match (*id as usize) < codes && (label as usize) < classes {
            true => counts[*id as usize * classes + label as usize] += 1.0,
            false => outside += 1.0,
        }
    }
    assert_eq!(after["counts"].values(), counts);
    assert_eq!(after["outside"].values(), [outside]);
}

#[test]
fn hog_follows_the_definition() {
    for (batch, side, patch) in [(1, 2, 2), (2, 24, 4), (1, 32, 16), (1, 40, 8)] {
        let count = batch * 3 * side * side;
        let images: Vec<f64> = (0..count)
            .map(|i| f64::from((i * i * 31 % 251) as u8))
            .collect();
        let window: Vec<f64> = numbers(35, patch * patch, 0.1, 0.5);
        let launch = hog::launch::hog(batch, side, patch).unwrap();
        let given = vec![
            ("images", Buffer::new(Dtype::U8, &images)),
            ("window", f32s(&window)),
        ];
        let Some([out]) = outcome(&[launch], given, ["out"]) else {
            return;
        };
        let expected = hog::reference::hog(&images, &window, side, patch);
        assert_close(&out, &expected, 2e-6, 1e-5, "hog");
    }
}
