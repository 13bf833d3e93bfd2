//! Box on the original to tensor, in one resampling: Pillow's `resize((side, side), BICUBIC, box=...)`.

use candle_core::{Device, Tensor};

use super::{CropBox, Edit, InputSpec, Sample, resample};
use crate::{Error, Result};

pub(super) fn render(
    samples: &[Sample],
    input: &InputSpec,
    edit: Option<&dyn Edit>,
) -> Result<Tensor> {
    let side = input.side;
    let plane = side * side;
    let mut out = vec![0.0_f32; samples.len() * 3 * plane];
    let tables = [0, 1, 2].map(|c| scaling(input, c));
    for (sample, out) in samples.iter().zip(out.chunks_exact_mut(3 * plane)) {
        let mut bytes = resize(sample, side)?;
        if sample.flip {
            mirror(&mut bytes, side);
        }
        if let Some(edit) = edit {
            edit.bytes(sample, &mut bytes, side);
        }
        for (at, pixel) in bytes.chunks_exact(3).enumerate() {
            for c in 0..3 {
                out[c * plane + at] = tables[c][usize::from(pixel[c])];
            }
        }
        if let Some(edit) = edit {
            edit.values(sample, out, side);
        }
    }
    Ok(Tensor::from_vec(
        out,
        (samples.len(), 3, side, side),
        &Device::Cpu,
    )?)
}

fn mirror(rgb: &mut [u8], side: usize) {
    for row in rgb.chunks_exact_mut(side * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// Value of every byte of channel `c`.
fn scaling(input: &InputSpec, c: usize) -> [f32; 256] {
    std::array::from_fn(|byte| (byte as f32 / 255.0 - input.mean[c]) / input.std[c])
}

fn resize(sample: &Sample, side: usize) -> Result<Vec<u8>> {
    let image = &sample.image;
    let failed = |message: String| Error::Image {
        name: format!("{} {}", sample.id.split.name(), sample.id.index),
        message,
    };
    let CropBox {
        left,
        top,
        width,
        height,
    } = sample.crop;
    let inside = left >= 0.0
        && top >= 0.0
        && width > 0.0
        && height > 0.0
        && left + width <= image.width as f64 + 1e-6
        && top + height <= image.height as f64 + 1e-6;
    if !inside {
        return Err(failed(format!(
            "box {:?} lies outside the {}x{} image",
            sample.crop, image.width, image.height
        )));
    }
    let whole = [left, top, width, height].iter().all(|v| v.fract() == 0.0);
    if whole && width as usize == side && height as usize == side {
        return Ok(cut(
            &image.rgb,
            image.width,
            left as usize,
            top as usize,
            side,
        ));
    }
    Ok(resample::resize(image, sample.crop, side))
}

/// A square of whole pixels, as it is.
fn cut(rgb: &[u8], width: usize, left: usize, top: usize, side: usize) -> Vec<u8> {
    let rows = (top..top + side).map(|row| &rgb[(row * width + left) * 3..][..side * 3]);
    rows.flatten().copied().collect()
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
            rgb: rgb.collect(),
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
    fn every_byte_is_pillows() {
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
    fn a_flip_mirrors_after_cropping() {
        let crop = [3.0, 2.0, 19.0, 18.0];
        let (plain, flipped) = (
            bytes(&sample(crop, false), 8),
            bytes(&sample(crop, true), 8),
        );
        for (a, b) in plain.chunks(8).zip(flipped.chunks(8)) {
            assert!(a.iter().eq(b.iter().rev()));
        }
    }

    #[test]
    fn a_box_outside_the_image_is_refused() {
        let outside = sample([30.0, 0.0, 40.0, 10.0], false);
        let error = View::new(&[outside])
            .render(&InputSpec::imagenet(8))
            .unwrap_err();
        assert!(
            error.to_string().contains("lies outside the 37x29 image"),
            "{error}"
        );
    }
}
