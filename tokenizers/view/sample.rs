//! Images, boxes on them, and how a consumer wants their pixels.

use std::sync::Arc;

use bytes::Bytes;

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
