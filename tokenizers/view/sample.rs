//! Images, boxes on them, and the size and scaling of a consumer's input.

use std::sync::Arc;

use bytes::Bytes;

/// A decoded image, 8-bit RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, row by row, R G B, in memory (`vec.into()`) or as part of a mapped file.
    pub rgb: Bytes,
}

/// A rectangle on an image in pixels of the original, possibly fractional.
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

/// Identifies an image: its split and its position in scan order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleId {
    /// The split.
    pub split: Split,
    /// Index in scan order.
    pub index: usize,
}

/// One of the two splits of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Images for training codebooks, models and probes.
    Train,
    /// Images for measuring accuracy.
    Val,
}

impl Split {
    /// Returns "train" or "val".
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// One image of a view: pixels, box, flip, and id.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The decoded original, or a reduced version of it.
    pub image: Arc<Image>,
    /// The box, in pixels of `image`.
    pub crop: CropBox,
    /// Largest side that can be rendered if `image` is a reduced version (`fast_decode`).
    pub finest: Option<usize>,
    /// Mirror left and right after cropping.
    pub flip: bool,
    /// Whether `crop` is the suite's evaluation box, the only one for [`Needs::SampleIds`](crate::Needs) tokenizers.
    pub is_eval_box: bool,
    /// Split and index.
    pub id: SampleId,
}

/// Size and scaling of a consumer's input: a square of `side` pixels; byte x of channel c becomes `(x/255 - mean[c]) / std[c]`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct InputSpec {
    /// Side of the square, pixels.
    pub side: usize,
    /// Subtracted, per channel, on the 0..1 scale.
    pub mean: [f32; 3],
    /// Divisor after the subtraction, per channel.
    pub std: [f32; 3],
}

/// Maximum side of what is rendered, pixels; one such image has 800 MB, and ViTs see 224 to 1024 pixels.
pub const MOST_PIXELS: usize = 16_384;

/// ImageNet's channel means on the 0..1 scale.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations on the 0..1 scale.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl InputSpec {
    /// Returns the spec with ImageNet's mean and standard deviation, as for the model's input.
    pub fn imagenet(side: usize) -> Self {
        Self {
            side,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

/// Changes the pixels of a crop, for augmentation beyond crop and flip.
pub trait Edit {
    /// Changes the square after cropping, resizing and mirroring: `side * side * 3` bytes, row by row, R G B.
    fn bytes(&self, sample: &Sample, rgb: &mut Vec<u8>, side: usize);
    /// Changes the scaled values, `[3, side, side]`.
    fn values(&self, sample: &Sample, values: &mut [f32], side: usize);
}
