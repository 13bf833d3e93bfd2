//! Datasets: images, their order and labels, and their pixels on demand.
//!
//! A [`DatasetFactory`] reads the suite's `dataset:`, [`scan()`] fixes the images and their order, [`Dataset`] returns pixels, and
//! [`view`] turns indices into boxes on originals.

pub mod augment;
mod bounds;
mod classes;
mod contract;
mod dataset;
mod decode;
mod decoded;
mod decoding;
mod digest;
mod encoded;
mod error;
mod fast;
pub mod fetched;
mod foreign;
mod hold_out;
mod jpeg;
mod kinds;
mod left_out;
mod look;
mod names;
mod png;
mod scan;
pub mod snapshot;
pub mod targets;
pub mod view;

pub use classes::seen;
pub use contract::{DatasetFactory, DatasetSpec, PixelSource, Pixels, ScanContext, Survey};
pub use dataset::{Dataset, TRAINING_CACHE, scan};
pub use decode::decode_file;
pub use decoded::{RESIDENT, map, written_at_once};
pub use decoding::{DecodedCache, Decoding};
pub use digest::Shape;
pub use encoded::Encoded;
pub use error::DataError;
pub use fetched::Fetched;
pub use hold_out::HoldOut;
pub use kinds::{ImageFolder, builtin, mosaics};
pub use left_out::{LeftOut, Omitted, Skipped, one_line};
pub use look::{Look, look};
pub use names::Names;
pub use scan::{Place, Scan, SplitScan, check_two_classes, said_of_single};
pub use view::{CropForm, EvalTransform, TrainStream, ViewPlan};

#[cfg(test)]
mod tests;
