//! Views of images and their rendering.
//!
//! Evaluation and augmentation both define a *box on the original image* and a flip. The model's input and each tokenizer's input are
//! rendered from that box at their own size in one resampling (bicubic, antialiased, as Pillow's `resize(size, BICUBIC, box=...)`).
//! None is rendered from another: resampling a resampled image changes about 6 % of a real VQ encoder's ids.

mod batch;
mod device;
mod render;
mod rendered;
mod resample;
mod sample;

pub use batch::{View, ViewBuf};
pub use rendered::Rendered;
pub use sample::{
    CropBox, Edit, IMAGENET_MEAN, IMAGENET_STD, Image, InputSpec, MOST_PIXELS, Sample, SampleId,
    Split,
};
