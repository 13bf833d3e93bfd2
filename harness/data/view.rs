//! Indices to views: the evaluation box, or an augmented box that depends on (seed, epoch, image) only.

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::{CropBox, ImageStream, Sample, SampleId, Split, ViewBuf};

use super::{DataError, Dataset};

/// What part of an image is evaluated: resize the shorter side, crop the centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalTransform {
    /// Length of the shorter side, pixels.
    pub resize_shorter: usize,
    /// Side of the centred square then cut out, pixels.
    pub crop: usize,
}

impl EvalTransform {
    /// The centred square of side `short * crop / resize_shorter` on the original.
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

/// How images are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ViewPlan {
    /// The evaluation box.
    Eval,
    /// The evaluation box, mirrored half of the time.
    FixedView {
        /// Seed.
        seed: u64,
        /// Epoch.
        epoch: usize,
    },
    /// torchvision's RandomResizedCrop (ratio 3/4 to 4/3, ten tries, then the centre), mirrored half of the time.
    RandomResizedCrop {
        /// Seed.
        seed: u64,
        /// Epoch.
        epoch: usize,
        /// Smallest and largest part of the area.
        scale: (f64, f64),
    },
}

impl ViewPlan {
    fn place(
        &self,
        eval: EvalTransform,
        width: usize,
        height: usize,
        index: usize,
    ) -> (CropBox, bool, bool) {
        match *self {
            Self::Eval => (eval.eval_box(width, height), false, true),
            Self::FixedView { seed, epoch } => {
                let flip = keyed_rng(seed, "crop", epoch as u64, index as u64).random();
                (eval.eval_box(width, height), flip, true)
            }
            Self::RandomResizedCrop { seed, epoch, scale } => {
                let mut rng = keyed_rng(seed, "crop", epoch as u64, index as u64);
                let flip = rng.random();
                (
                    random_resized_crop(&mut rng, width, height, scale),
                    flip,
                    false,
                )
            }
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
    let area = (width * height) as f64;
    let (low, high) = ((3.0_f64 / 4.0).ln(), (4.0_f64 / 3.0).ln());
    for _ in 0..10 {
        let target = area * (scale.0 + (scale.1 - scale.0) * rng.random::<f64>());
        let ratio = (low + (high - low) * rng.random::<f64>()).exp();
        let w = (target * ratio).sqrt().round() as usize;
        let h = (target / ratio).sqrt().round() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = rng.random_range(0..=height - h);
            let left = rng.random_range(0..=width - w);
            return CropBox {
                left: left as f64,
                top: top as f64,
                width: w as f64,
                height: h as f64,
            };
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

impl Dataset {
    /// Images `indices` of a split as `plan` looks at them.
    ///
    /// # Errors
    /// [`DataError`] when one no longer decodes.
    pub fn view(
        &self,
        split: Split,
        indices: &[usize],
        plan: ViewPlan,
        eval: EvalTransform,
    ) -> Result<ViewBuf, DataError> {
        let samples = indices.iter().map(|&index| {
            let image = self.image(split, index)?;
            let (crop, flip, is_eval_box) = plan.place(eval, image.width, image.height, index);
            Ok(Sample {
                image,
                crop,
                flip,
                is_eval_box,
                id: SampleId { split, index },
            })
        });
        Ok(ViewBuf(samples.collect::<Result<_, DataError>>()?))
    }
}

/// The train split under the evaluation transform: what codebooks are fitted on.
pub struct TrainStream<'a> {
    dataset: &'a Dataset,
    eval: EvalTransform,
}

impl<'a> TrainStream<'a> {
    /// The train split of `dataset`.
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
