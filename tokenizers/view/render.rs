//! Renders boxes on originals to tensors in one resampling: Pillow's `resize((side, side), BICUBIC, box=...)`.

use tessera_kernels::simd::vectorized;

use super::resample::Resizer;
use super::sample::{CropBox, Edit, Image, InputSpec, Sample};
use crate::{Error, Result};

#[cfg(test)]
thread_local! {
    static COUNT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Returns the number of renderings on this thread so far.
#[cfg(test)]
pub(super) fn count() -> usize {
    COUNT.get()
}

/// Returns `[samples, 3, side, side]`, row-major.
pub(super) fn render(
    samples: &[Sample],
    input: &InputSpec,
    edit: Option<&dyn Edit>,
) -> Result<Vec<f32>> {
    #[cfg(test)]
    COUNT.with(|count| count.set(count.get() + 1));
    let plane = input.side * input.side;
    // Not zeroed first, because that would write the memory twice.
    let mut out = Vec::with_capacity(samples.len() * 3 * plane);
    let mut square = Square::new(input.side);
    let scalings = [0, 1, 2].map(|c| Scaling::new(input, c));
    for sample in samples {
        square.draw(sample)?;
        if let Some(edit) = edit {
            square.edit(|bytes| edit.bytes(sample, bytes, input.side));
        }
        let start = out.len();
        for (bytes, scaling) in square.planes.chunks_exact(plane).zip(&scalings) {
            vectorized(
                #[inline(always)]
                || scaling.append(bytes, &mut out),
            );
        }
        if let Some(edit) = edit {
            edit.values(sample, &mut out[start..], input.side);
        }
    }
    Ok(out)
}

/// Checks that a sample's box can be rendered at `side`.
///
/// # Errors
/// [`Error::Image`] if the box is not inside the image, or the image was decoded for a smaller side.
pub(super) fn check(sample: &Sample, side: usize) -> Result<()> {
    let image = &*sample.image;
    let CropBox {
        left,
        top,
        width,
        height,
    } = sample.crop;
    let failed = |message: String| Error::Image {
        name: format!("{} {}", sample.id.split.name(), sample.id.index),
        message,
    };
    let inside = left >= 0.0
        && top >= 0.0
        && width > 0.0
        && height > 0.0
        && left + width <= image.width as f64 + 1e-6
        && top + height <= image.height as f64 + 1e-6;
    if !inside {
        return Err(failed(format!(
            "box {:?} is not inside the {}x{} image",
            sample.crop, image.width, image.height
        )));
    }
    if let Some(finest) = sample.finest.filter(|finest| *finest < side) {
        return Err(failed(format!(
            "was decoded for inputs of at most {finest} pixels (fast_decode), but the row needs {side}; write `input: {{side: {side}}}` in \
             the row, or set `fast_decode: false`"
        )));
    }
    Ok(())
}

/// Scaling of a channel.
struct Scaling {
    mean: f32,
    per_std: f64,
}

impl Scaling {
    fn new(input: &InputSpec, c: usize) -> Self {
        Self {
            mean: input.mean[c],
            per_std: 1.0 / f64::from(input.std[c]),
        }
    }

    /// Returns `(byte / 255 - mean) / std` in f32. A vector division costs as much as ten products, so this multiplies in f64. The result
    /// is bitwise equal: a quotient of two f32 is at least 2^-49 (relative) away from a rounding boundary of f32, and these products are
    /// within 2^-52 of the quotient.
    #[inline(always)]
    fn value(&self, byte: u8) -> f32 {
        let x = (f64::from(byte) * (1.0 / 255.0)) as f32;
        (f64::from(x - self.mean) * self.per_std) as f32
    }

    #[inline(always)]
    fn append(&self, bytes: &[u8], out: &mut Vec<f32>) {
        let (chunks, rest) = bytes.as_chunks::<64>();
        for chunk in chunks {
            out.extend_from_slice(&chunk.map(|byte| self.value(byte)));
        }
        out.extend(rest.iter().map(|byte| self.value(*byte)));
    }
}

/// One rendered image as bytes.
struct Square {
    side: usize,
    /// Red, green, blue, `side * side` each.
    planes: Vec<u8>,
    resizer: Resizer,
}

impl Square {
    fn new(side: usize) -> Self {
        Self {
            side,
            planes: vec![0; 3 * side * side],
            resizer: Resizer::default(),
        }
    }

    fn draw(&mut self, sample: &Sample) -> Result<()> {
        let (image, side) = (&*sample.image, self.side);
        check(sample, side)?;
        let CropBox {
            left,
            top,
            width,
            height,
        } = sample.crop;
        let whole = [left, top, width, height].iter().all(|v| v.fract() == 0.0);
        if whole && width as usize == side && height as usize == side {
            self.cut(image, left as usize, top as usize, sample.flip);
        } else {
            let planes = &mut self.planes;
            self.resizer
                .resize(image, sample.crop, side, sample.flip, planes);
        }
        Ok(())
    }

    /// Copies a square of whole pixels without resampling.
    fn cut(&mut self, image: &Image, left: usize, top: usize, flip: bool) {
        let side = self.side;
        for (c, plane) in self.planes.chunks_exact_mut(side * side).enumerate() {
            for (line, row) in plane.chunks_exact_mut(side).zip(top..) {
                let from = &image.rgb[(row * image.width + left) * 3..][..side * 3];
                line.iter_mut()
                    .zip(from.as_chunks::<3>().0)
                    .for_each(|(o, p)| *o = p[c]);
                if flip {
                    line.reverse();
                }
            }
        }
    }

    /// Applies `edit` to the interleaved bytes, R G B.
    fn edit(&mut self, edit: impl FnOnce(&mut Vec<u8>)) {
        let plane = self.side * self.side;
        let (red, rest) = self.planes.split_at(plane);
        let (green, blue) = rest.split_at(plane);
        let pixels = red.iter().zip(green).zip(blue);
        let mut rgb: Vec<u8> = pixels.flat_map(|((r, g), b)| [*r, *g, *b]).collect();
        edit(&mut rgb);
        for (c, plane) in self.planes.chunks_exact_mut(plane).enumerate() {
            plane
                .iter_mut()
                .zip(rgb.as_chunks::<3>().0)
                .for_each(|(o, p)| *o = p[c]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Image, InputSpec, SampleId, Split, View};
    use super::*;
    use std::sync::Arc;

    /// The image that `tests/fixtures/render/make.py` draws.
    fn pattern(width: usize, height: usize) -> Image {
        let byte = |x: usize, y: usize, c: usize| {
            ((x * x * (c + 1) + y * 7 * (3 - c) + x * y) % 256) as u8
        };
        let rgb = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| byte(x, y, c))));
        Image {
            width,
            height,
            rgb: rgb.collect::<Vec<u8>>().into(),
        }
    }

    fn sample(crop: [f64; 4], flip: bool) -> Sample {
        let [left, top, right, bottom] = crop;
        Sample {
            image: Arc::new(pattern(37, 29)),
            crop: CropBox {
                left,
                top,
                width: right - left,
                height: bottom - top,
            },
            finest: None,
            flip,
            is_eval_box: true,
            id: SampleId {
                split: Split::Train,
                index: 0,
            },
        }
    }

    fn bytes(sample: &Sample, side: usize) -> Vec<f32> {
        let input = InputSpec {
            side,
            mean: [0.0; 3],
            std: [1.0 / 255.0; 3],
        };
        let tensor = View::new(std::slice::from_ref(sample))
            .render(&input)
            .unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_byte_equals_pillows() {
        let fixture: Vec<(Vec<f64>, usize, Vec<f32>)> =
            serde_json::from_str(include_str!("../../tests/fixtures/render/pillow.json")).unwrap();
        for (crop, side, expected) in fixture {
            let found = bytes(&sample([crop[0], crop[1], crop[2], crop[3]], false), side);
            let worst = found
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 0.01, "{crop:?} {side}: {worst}");
        }
    }

    #[test]
    fn values_equal_the_divisions_bitwise() {
        for (mean, std) in [
            (0.485, 0.229),
            (0.456, 0.224),
            (0.406, 0.225),
            (0.0, 1.0 / 255.0),
        ] {
            let input = InputSpec {
                side: 1,
                mean: [mean; 3],
                std: [std; 3],
            };
            let scaling = Scaling::new(&input, 0);
            for byte in 0..=255_u8 {
                let exact = (f32::from(byte) / 255.0 - mean) / std;
                assert_eq!(
                    scaling.value(byte).to_bits(),
                    exact.to_bits(),
                    "{byte} {mean} {std}"
                );
            }
        }
    }

    #[test]
    fn a_flip_mirrors_after_cropping() {
        // Resampled, and copied.
        for side in [8, 16] {
            let crop = [3.0, 2.0, 19.0, 18.0];
            let (plain, flipped) = (
                bytes(&sample(crop, false), side),
                bytes(&sample(crop, true), side),
            );
            for (a, b) in plain.chunks(side).zip(flipped.chunks(side)) {
                assert!(a.iter().eq(b.iter().rev()));
            }
        }
    }

    /// One resizer serves many images; the previous one must not affect the next.
    #[test]
    fn images_in_a_batch_equal_those_alone() {
        let samples = [
            sample([0.0, 0.0, 29.0, 29.0], false),
            sample([4.5, 1.25, 30.75, 27.5], true),
            sample([4.5, 1.25, 30.75, 27.5], false),
            sample([10.0, 5.0, 20.0, 15.0], false),
        ];
        let input = InputSpec::imagenet(24);
        let all = View::new(&samples).values(&input).unwrap();
        for (sample, found) in samples.iter().zip(all.chunks(3 * 24 * 24)) {
            let alone = View::new(std::slice::from_ref(sample))
                .values(&input)
                .unwrap();
            assert_eq!(alone, found);
        }
    }

    #[test]
    fn an_edit_gets_interleaved_pixels() {
        struct Swap;
        impl Edit for Swap {
            fn bytes(&self, _: &Sample, rgb: &mut Vec<u8>, _: usize) {
                *rgb = rgb
                    .chunks_exact(3)
                    .flat_map(|p| [p[2], p[1], p[0]])
                    .collect();
            }
            fn values(&self, _: &Sample, _: &mut [f32], _: usize) {}
        }
        let sample = sample([3.0, 2.0, 19.0, 18.0], false);
        let input = InputSpec {
            side: 8,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let plain = View::new(std::slice::from_ref(&sample))
            .values(&input)
            .unwrap();
        let tensor = View::new(std::slice::from_ref(&sample))
            .render_edited(&input, &Swap)
            .unwrap();
        let swapped: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let (red, rest) = plain.split_at(64);
        assert_eq!(swapped, [&rest[64..], &rest[..64], red].concat());
    }

    #[test]
    fn an_image_decoded_for_a_smaller_side_is_refused() {
        let mut sample = sample([3.0, 2.0, 19.0, 18.0], false);
        sample.finest = Some(8);
        let render =
            |side| View::new(std::slice::from_ref(&sample)).render(&InputSpec::imagenet(side));
        assert!(render(8).is_ok());
        let error = render(9).unwrap_err().to_string();
        assert!(
            error.contains(
                "decoded for inputs of at most 8 pixels (fast_decode), but the row needs 9"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_box_outside_the_image_is_refused() {
        let outside = sample([30.0, 0.0, 40.0, 10.0], false);
        let error = View::new(&[outside])
            .render(&InputSpec::imagenet(8))
            .unwrap_err();
        assert!(
            error.to_string().contains("not inside the 37x29 image"),
            "{error}"
        );
    }
}
