//! The result of a scan: images, their order, labels and sizes.

use std::path::PathBuf;

use tessera_tokenizers::Fingerprint;

use super::classes::class_hash;
use super::digest::Shape;

/// An image that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path, relative to the root.
    pub name: String,
    /// Why it is left out.
    pub reason: String,
}

/// One split of a scanned dataset, in scan order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitScan {
    /// Path of each image relative to the root, or its number.
    pub names: Vec<String>,
    /// Label of each image.
    pub labels: Vec<u32>,
    /// Size of each encoded image; otherwise empty.
    pub shapes: Vec<Shape>,
    /// Position of each image in `shards`; empty without shards.
    pub places: Vec<Place>,
    /// The shards.
    pub shards: Vec<PathBuf>,
}

impl SplitScan {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A scanned dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// "imagenette160", "cifar10", "mosaics".
    pub name: String,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// BLAKE3 (16 hex digits) of the class names in order.
    pub class_list_hash: String,
    /// The train split.
    pub train: SplitScan,
    /// The val split.
    pub val: SplitScan,
    /// Images that are left out.
    pub skipped: Vec<Skipped>,
    /// Changes with any image or label and with their order.
    pub fingerprint: Fingerprint,
}

impl Scan {
    /// Creates a scan without broken images. `classes` are the class names in label order. `fingerprint` must change with any image
    /// or label and with their order.
    pub fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        [train, val]: [SplitScan; 2],
        fingerprint: Fingerprint,
    ) -> Self {
        Self {
            name: name.into(),
            class_list_hash: class_hash(&classes),
            classes,
            train,
            val,
            skipped: Vec::new(),
            fingerprint,
        }
    }
}

/// Position of an image in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the shard.
    pub shard: u32,
    /// Offset of the image, bytes.
    pub offset: u64,
    /// Length of the image, bytes.
    pub bytes: u64,
}
