//! One view of images, rendered once per consumer.
//!
//! Evaluation and augmentation both yield a *box on the original image* and a flip. The model's input and each
//! tokenizer's input are rendered from that box at their own size in one resampling (bicubic, antialiased, as
//! Pillow's `resize(size, BICUBIC, box=...)`), never from each other: resampling a resampled image changes about 6 % of a
//! real VQ encoder's ids.

mod device;
mod render;
mod rendered;
mod resample;

pub use rendered::Rendered;

use std::sync::Arc;

use bytes::Bytes;
use candle_core::{Device, Tensor};

use crate::Result;

/// A decoded image, 8-bit RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, row by row, R G B: in memory (`vec.into()`), or a part of a mapped file.
    pub rgb: Bytes,
}

/// A rectangle on an image, in pixels of the original, fractions allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropBox {
    /// Distance from the image's left edge.
    pub left: f64,
    /// Distance from the image's top edge.
    pub top: f64,
    /// Width of the box.
    pub width: f64,
    /// Height of the box.
    pub height: f64,
}

/// Which image: its position in the scan order of its split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleId {
    /// The split.
    pub split: Split,
    /// Index in scan order.
    pub index: usize,
}

/// One of the two halves of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What codebooks, models and probes learn from.
    Train,
    /// What accuracy is measured on.
    Val,
}

impl Split {
    /// "train" or "val".
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// One image of a view: pixels, the box to see, whether to mirror it, and which image it is.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The decoded original, or a smaller form of it.
    pub image: Arc<Image>,
    /// The part to see, in pixels of `image`.
    pub crop: CropBox,
    /// Largest side that `image` has the pixels for, when it is a smaller form (`fast_decode`).
    pub finest: Option<usize>,
    /// Mirror left and right after cropping.
    pub flip: bool,
    /// Whether `crop` is the suite's evaluation box (what [`Needs::SampleIds`](crate::Needs) tokenizers know).
    pub is_eval_box: bool,
    /// Which image it is.
    pub id: SampleId,
}

/// An owned batch of samples.
#[derive(Clone, Debug, Default)]
pub struct ViewBuf(pub Vec<Sample>);

impl ViewBuf {
    /// Borrowed, as tokenizers take it.
    pub fn as_view(&self) -> View<'_> {
        View::new(&self.0)
    }
}

/// A batch of images as a consumer may look at it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    samples: &'a [Sample],
    rendered: Option<&'a Rendered>,
}

/// How a consumer wants its pixels: a square of `side` pixels, channel c of a byte x as `(x/255 - mean[c]) / std[c]`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct InputSpec {
    /// Side of the square, pixels.
    pub side: usize,
    /// Subtracted, per channel, on the 0..1 scale.
    pub mean: [f32; 3],
    /// Divided by, per channel.
    pub std: [f32; 3],
}

/// ImageNet's channel means on the 0..1 scale.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations on the 0..1 scale.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl InputSpec {
    /// ImageNet mean and standard deviation, as the model's own input has them.
    pub fn imagenet(side: usize) -> Self {
        Self {
            side,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

/// Changes to the pixels of a crop, for a consumer that augments more than where it looks.
pub trait Edit {
    /// Changes the square after cropping, resizing and mirroring: `side * side * 3` bytes, row by row, R G B.
    fn bytes(&self, sample: &Sample, rgb: &mut Vec<u8>, side: usize);
    /// Changes the scaled values, `[3, side, side]`.
    fn values(&self, sample: &Sample, values: &mut [f32], side: usize);
}

impl<'a> View<'a> {
    /// The view of `samples`.
    pub fn new(samples: &'a [Sample]) -> Self {
        Self {
            samples,
            rendered: None,
        }
    }

    /// The same view for several consumers: those that ask for the same size and scaling share one rendering, which `rendered`
    /// holds. It must be of this view alone.
    #[must_use]
    pub fn sharing(self, rendered: &'a Rendered) -> Self {
        Self {
            rendered: Some(rendered),
            ..self
        }
    }

    /// The images, boxes and ids.
    pub fn samples(&self) -> &'a [Sample] {
        self.samples
    }

    /// Number of images.
    pub fn batch(&self) -> usize {
        self.samples.len()
    }

    /// The images at a consumer's own size and scaling, one resampling from the original.
    ///
    /// # Shapes
    /// Returns `[batch, 3, side, side]`, f32, contiguous.
    ///
    /// # Errors
    /// [`Error::Image`](crate::Error::Image) when a box lies outside its image, or the image was decoded for a smaller `side`.
    pub fn render(&self, input: &InputSpec) -> Result<Tensor> {
        let make = || self.tensor(render::render(self.samples, input, None)?, input);
        match self.rendered {
            Some(rendered) => rendered.tensor(input, make),
            None => make(),
        }
    }

    /// What [`render`](Self::render) gives, row-major, for consumers that compute without tensors.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn values(&self, input: &InputSpec) -> Result<Vec<f32>> {
        match self.rendered {
            Some(_) => Ok(self.render(input)?.flatten_all()?.to_vec1()?),
            None => render::render(self.samples, input, None),
        }
    }

    /// [`render`](Self::render), with the pixels changed on the way.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_edited(&self, input: &InputSpec, edit: &dyn Edit) -> Result<Tensor> {
        self.tensor(render::render(self.samples, input, Some(edit))?, input)
    }

    fn tensor(&self, values: Vec<f32>, input: &InputSpec) -> Result<Tensor> {
        let shape = (self.batch(), 3, input.side, input.side);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}
