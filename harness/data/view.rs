//! Turns indices into views: the evaluation box, or an augmented box that depends only on (seed, epoch, image).

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::rng::{ChaCha8Rng, keyed_rng};
use tessera_tokenizers::view::MOST_PIXELS;
use tessera_tokenizers::{CropBox, ImageStream, Sample, SampleId, Split, ViewBuf};

use super::dataset::Dataset;
use super::error::DataError;

/// The evaluated part of an image: resize the shorter side, crop the centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalTransform {
    /// Length of the shorter side, pixels.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub resize_shorter: usize,
    /// Side of the centred square after resizing, pixels.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub crop: usize,
}

impl Default for EvalTransform {
    /// The largest square in the centre; a suite writes it in pixels of its `image_size`.
    fn default() -> Self {
        Self {
            resize_shorter: 1,
            crop: 1,
        }
    }
}

impl EvalTransform {
    /// Returns the centred square of side `short * crop / resize_shorter` on the original.
    pub fn eval_box(&self, width: usize, height: usize) -> CropBox {
        let side = width.min(height) as f64 * self.crop as f64 / self.resize_shorter as f64;
        CropBox {
            left: (width as f64 - side) / 2.0,
            top: (height as f64 - side) / 2.0,
            width: side,
            height: side,
        }
    }
}

/// Box and flip of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ViewPlan {
    /// The evaluation box.
    Eval,
    /// The mirror image of the evaluation box.
    Mirrored,
    /// The evaluation box, mirrored with probability 1/2.
    FixedView {
        /// Seed.
        seed: u64,
        /// Epoch.
        epoch: usize,
    },
    /// RandomResizedCrop (ratio 3/4 to 4/3), mirrored with probability 1/2.
    RandomResizedCrop {
        /// Seed.
        seed: u64,
        /// Epoch.
        epoch: usize,
        /// Smallest and largest fraction of the area.
        scale: (f64, f64),
        /// Form of RandomResizedCrop.
        form: CropForm,
    },
}

/// The two published forms of RandomResizedCrop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropForm {
    /// torchvision's: ten tries, then the centre.
    Torchvision,
    /// TensorFlow's, which MAE uses for linear probing (`util/crop.py`): one try, sides clamped to the image.
    Tensorflow,
}

impl ViewPlan {
    fn is_eval_box(&self) -> bool {
        !matches!(self, Self::RandomResizedCrop { .. })
    }

    /// Returns the generator of an image, which draws the flip first, then the crop.
    fn rng(seed: u64, epoch: usize, index: usize) -> ChaCha8Rng {
        keyed_rng(seed, "crop", epoch as u64, index as u64)
    }

    fn flip(&self, index: usize) -> bool {
        match *self {
            Self::Eval => false,
            Self::Mirrored => true,
            Self::FixedView { seed, epoch } | Self::RandomResizedCrop { seed, epoch, .. } => {
                Self::rng(seed, epoch, index).random()
            }
        }
    }

    fn crop(&self, eval: EvalTransform, (width, height): (usize, usize), index: usize) -> CropBox {
        let Self::RandomResizedCrop {
            seed,
            epoch,
            scale,
            form,
        } = *self
        else {
            return eval.eval_box(width, height);
        };
        let mut rng = Self::rng(seed, epoch, index);
        let _flip: bool = rng.random();
        match form {
            CropForm::Torchvision => random_resized_crop(&mut rng, width, height, scale),
            CropForm::Tensorflow => crop_once(&mut rng, width, height, scale),
        }
    }
}

/// torchvision's `RandomResizedCrop.get_params`.
fn random_resized_crop(
    rng: &mut impl Rng,
    width: usize,
    height: usize,
    scale: (f64, f64),
) -> CropBox {
    for _ in 0..10 {
        let (w, h) = draw_size(rng, width * height, scale);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return placed(rng, (width, height), (w, h));
        }
    }
    let ratio = width as f64 / height as f64;
    let (w, h) = match ratio {
        r if r < 3.0 / 4.0 => (width as f64, (width as f64 / 0.75).round()),
        r if r > 4.0 / 3.0 => ((height as f64 * 4.0 / 3.0).round(), height as f64),
        _ => (width as f64, height as f64),
    };
    CropBox {
        left: ((width as f64 - w) / 2.0).floor(),
        top: ((height as f64 - h) / 2.0).floor(),
        width: w,
        height: h,
    }
}

/// MAE `util/crop.py`.
fn crop_once(rng: &mut impl Rng, width: usize, height: usize, scale: (f64, f64)) -> CropBox {
    let (w, h) = draw_size(rng, width * height, scale);
    placed(
        rng,
        (width, height),
        (w.clamp(1, width), h.clamp(1, height)),
    )
}

/// Draws width and height: a fraction of the area, with a ratio between 3/4 and 4/3.
fn draw_size(rng: &mut impl Rng, area: usize, scale: (f64, f64)) -> (usize, usize) {
    let (low, high) = ((3.0_f64 / 4.0).ln(), (4.0_f64 / 3.0).ln());
    let target = area as f64 * (scale.0 + (scale.1 - scale.0) * rng.random::<f64>());
    let ratio = (low + (high - low) * rng.random::<f64>()).exp();
    let side = |pixels: f64| pixels.sqrt().round_ties_even() as usize;
    (side(target * ratio), side(target / ratio))
}

fn placed(rng: &mut impl Rng, (width, height): (usize, usize), (w, h): (usize, usize)) -> CropBox {
    let top = rng.random_range(0..=height - h);
    let left = rng.random_range(0..=width - w);
    CropBox {
        left: left as f64,
        top: top as f64,
        width: w as f64,
        height: h as f64,
    }
}

impl Dataset {
    /// Returns images `indices` of a split with the boxes and flips of `plan`.
    ///
    /// # Errors
    /// [`DataError`] if one no longer decodes.
    pub fn view(
        &self,
        split: Split,
        indices: &[usize],
        plan: ViewPlan,
        eval: EvalTransform,
    ) -> Result<ViewBuf, DataError> {
        let samples = indices.iter().map(|&index| {
            let reduced = self.reduced(split, index, |width, height| {
                plan.crop(eval, (width, height), index)
            })?;
            Ok(Sample {
                image: reduced.image,
                crop: reduced.crop,
                finest: reduced.finest,
                flip: plan.flip(index),
                is_eval_box: plan.is_eval_box(),
                id: SampleId { split, index },
            })
        });
        Ok(ViewBuf(samples.collect::<Result<_, DataError>>()?))
    }
}

/// The train split under the evaluation transform, on which codebooks are fitted.
pub struct TrainStream<'a> {
    dataset: &'a Dataset,
    eval: EvalTransform,
}

impl<'a> TrainStream<'a> {
    /// Creates the stream of `dataset`.
    pub fn new(dataset: &'a Dataset, eval: EvalTransform) -> Self {
        Self { dataset, eval }
    }
}

impl ImageStream for TrainStream<'_> {
    fn len(&self) -> usize {
        self.dataset.len(Split::Train)
    }

    fn view(&self, indices: &[usize]) -> tessera_tokenizers::Result<ViewBuf> {
        let view = self
            .dataset
            .view(Split::Train, indices, ViewPlan::Eval, self.eval);
        view.map_err(|e| tessera_tokenizers::Error::Image {
            name: "train".into(),
            message: e.to_string(),
        })
    }
}
