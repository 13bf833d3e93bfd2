//! The fixed images whose targets identify a program, and checks of a program on them.

use std::sync::Arc;

use rand::Rng;
use tessera_models::rng::keyed_rng;

use super::frame::Reply;
use crate::Result;
use crate::view::{CropBox, Image, InputSpec, Sample, SampleId, Split, ViewBuf};

/// Number of drawn images. Changing them or their number changes every fingerprint.
pub const DRAWN: usize = 16;
/// Images that are tokenized again: among themselves, and beside others at other positions.
pub const REPEATED: usize = DRAWN / 2;
/// Largest difference of two values of the same image, as a fraction of the largest value. Sums of a matrix product may round
/// otherwise at another position; sums over the batch move values by more.
const ROUNDING: f32 = 1e-4;

/// Returns the drawn images, f32 `[DRAWN, 3, side, side]`: squares of random colours with 1 to 16 pixels on a side and some noise.
///
/// # Errors
/// If they cannot be rendered.
pub fn images(input: &InputSpec) -> Result<Vec<f32>> {
    rendered(input, DRAWN, |byte| byte)
}

/// Returns images to repeat, f32 `[REPEATED, 3, side, side]`: drawn images that are dark and of low contrast. Beside brighter ones, a batch of
/// them has another mean and deviation, another largest and smallest value and other quantiles.
///
/// # Errors
/// If they cannot be rendered.
pub fn dim(input: &InputSpec) -> Result<Vec<f32>> {
    rendered(input, REPEATED, |byte| 25 + byte / 5 * 2)
}

/// Returns neighbours for them, f32 `[DRAWN, 3, side, side]`: drawn images of black and white, with more white.
///
/// # Errors
/// If they cannot be rendered.
pub fn stark(input: &InputSpec) -> Result<Vec<f32>> {
    rendered(input, DRAWN, |byte| if byte < 64 { 0 } else { 255 })
}

/// Renders the first `count` drawn images after `change` of their pixels.
fn rendered(input: &InputSpec, count: usize, change: fn(u8) -> u8) -> Result<Vec<f32>> {
    let view = ViewBuf(
        (0..count)
            .map(|at| sample(input.side, at, change))
            .collect(),
    );
    view.as_view().values(input)
}

fn sample(side: usize, index: usize, change: fn(u8) -> u8) -> Sample {
    let mut rng = keyed_rng(0, "drawn for programs", 0, index as u64);
    let square = (1_usize << (index % 5)).min(side);
    let across = side.div_ceil(square);
    let colors: Vec<[u8; 3]> = (0..across * across).map(|_| rng.random()).collect();
    let noise = 8 * (index / 5) as i16;
    let pixels = (0..side * side).flat_map(|at| {
        let (row, col) = (at / side / square, at % side / square);
        colors[row * across + col].map(|byte| {
            let grain = rng.random_range(-noise..=noise);
            change((i16::from(byte) + grain).clamp(0, 255) as u8)
        })
    });
    let rgb: Vec<u8> = pixels.collect();
    let width = side as f64;
    Sample {
        image: Arc::new(Image {
            width: side,
            height: side,
            rgb: rgb.into(),
        }),
        crop: CropBox {
            left: 0.0,
            top: 0.0,
            width,
            height: width,
        },
        finest: None,
        flip: false,
        is_eval_box: true,
        id: SampleId {
            split: Split::Val,
            index,
        },
    }
}

/// Returns two requests of the drawn `images`, of at most `batch`: the first in order, and the last in reverse, with another image at every
/// place. With each is its list of images.
pub fn pair(images: &[f32], batch: usize) -> [(Vec<f32>, Vec<usize>); 2] {
    let size = images.len() / DRAWN;
    let count = DRAWN.min(batch);
    [(0..count).collect(), (DRAWN - count..DRAWN).rev().collect()].map(|all: Vec<usize>| {
        let each = all.iter().flat_map(|at| &images[at * size..][..size]);
        (each.copied().collect(), all)
    })
}

/// Returns a batch in which the first of the dim `images` stand in another order beside `neighbours`, and which image is where.
pub fn beside(images: &[f32], neighbours: &[f32], batch: usize) -> (Vec<f32>, Vec<(usize, usize)>) {
    let size = images.len() / REPEATED;
    let count = batch.div_ceil(2).min(REPEATED);
    let others = neighbours.chunks(size).cycle().take(batch - count);
    let again = images.chunks(size).take(count).rev();
    let places = (0..count).map(|at| (at, batch - 1 - at)).collect();
    (others.chain(again).flatten().copied().collect(), places)
}

/// Returns the first image of `places` whose targets differ between `first` (the images in order) and `again`; `each` is the number of
/// targets of an image.
pub fn differing(
    first: &Reply,
    again: &Reply,
    places: &[(usize, usize)],
    each: usize,
) -> Option<usize> {
    let same = |&(image, place): &(usize, usize)| match (first, again) {
        (Reply::Ids(a), Reply::Ids(b)) => a[image * each..][..each] == b[place * each..][..each],
        (Reply::Values(a), Reply::Values(b)) => {
            let (a, b) = (&a[image * each..][..each], &b[place * each..][..each]);
            let largest = a.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            a.iter()
                .zip(b)
                .all(|(a, b)| (a - b).abs() <= ROUNDING * largest)
        }
        _ => false,
    };
    let found = places.iter().find(|place| !same(place));
    found.map(|(image, _)| *image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_images_differ_and_are_always_the_same() {
        let input = InputSpec {
            side: 12,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let all = images(&input).unwrap();
        assert_eq!(all, images(&input).unwrap());
        let each: Vec<&[f32]> = all.chunks(all.len() / DRAWN).collect();
        for (at, one) in each.iter().enumerate() {
            assert!(!each[..at].contains(one), "{at}");
        }
        let sum: f64 = all.iter().map(|value| f64::from(*value)).sum();
        // Another sum means other images, which change every fingerprint.
        assert!((sum - 3510.6824256).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn repeated_images_stand_elsewhere_in_every_batch() {
        let images: Vec<f32> = (0..REPEATED).map(|at| at as f32).collect();
        for batch in [1, 2, 3, 8, 16, 40] {
            let (all, places) = beside(&images, &[100.0, 101.0], batch);
            assert_eq!(all.len(), batch);
            assert!(!places.is_empty());
            for (image, place) in places {
                assert_eq!(all[place], image as f32, "{batch}");
            }
        }
    }

    #[test]
    fn two_requests_have_different_images_at_every_place() {
        let images: Vec<f32> = (0..DRAWN).map(|at| at as f32).collect();
        for batch in [1, 2, 7, 8, 15, 16, 40] {
            let [(first, order), (second, reverse)] = pair(&images, batch);
            assert_eq!([first.len(), second.len()], [batch.min(DRAWN); 2]);
            for (found, order) in [(&first, &order), (&second, &reverse)] {
                let expected: Vec<f32> = order.iter().map(|at| images[*at]).collect();
                assert_eq!(*found, expected, "{batch}");
            }
            assert!(first.iter().zip(&second).all(|(a, b)| a != b), "{batch}");
        }
    }

    /// The brightest neighbours left the largest value of a batch at 1, and the images that stayed left the smallest at 0.
    #[test]
    fn sums_and_extremes_of_a_batch_differ_beside_other_images() {
        let quantile = |sorted: &[f32], at: f32| sorted[(at * (sorted.len() - 1) as f32) as usize];
        let mean = |all: &[f32]| all.iter().sum::<f32>() / all.len() as f32;
        let deviation = |all: &[f32]| {
            let middle = mean(all);
            let squares: Vec<f32> = all.iter().map(|v| (v - middle).powi(2)).collect();
            mean(&squares).sqrt()
        };
        for (side, batch) in [(12, 16), (32, 2), (224, 16)] {
            let input = InputSpec {
                side,
                mean: [0.4; 3],
                std: [0.2; 3],
            };
            let images = dim(&input).unwrap();
            let (beside, _) = beside(&images, &stark(&input).unwrap(), batch);
            let [a, b] = [images, beside].map(|mut all| {
                all.sort_by(f32::total_cmp);
                let quantiles = [0.0, 0.01, 0.5, 0.9, 0.99, 1.0].map(|at| quantile(&all, at));
                [&quantiles[..], &[mean(&all), deviation(&all)]].concat()
            });
            for (at, (a, b)) in a.iter().zip(&b).enumerate() {
                // In units of the deviation of natural images.
                assert!((a - b).abs() > 0.3, "{side} {batch} {at}: {a} {b}");
            }
        }
    }

    #[test]
    fn an_image_with_other_targets_is_found() {
        let places = [(0, 1), (1, 0)];
        let ids = |ids: [u32; 4]| Reply::Ids(ids.to_vec());
        let found = |a: &Reply, b: &Reply| differing(a, b, &places, 2);
        assert_eq!(found(&ids([1, 2, 3, 4]), &ids([3, 4, 1, 2])), None);
        assert_eq!(found(&ids([1, 2, 3, 4]), &ids([3, 5, 1, 2])), Some(1));
        let values = |values: [f32; 4]| Reply::Values(values.to_vec());
        let first = values([1.0, 2.0, 3.0, 4.0]);
        assert_eq!(found(&first, &values([3.0, 4.0, 1.000_01, 2.0])), None);
        assert_eq!(found(&first, &values([3.0, 4.0, 1.01, 2.0])), Some(0));
    }
}
