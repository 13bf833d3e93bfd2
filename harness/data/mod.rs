//! Datasets: what images there are, in which order, with which labels, and their pixels on demand.
//!
//! [`parse`] reads the suite's `dataset:`, [`scan`] decodes every image once and fixes the order, [`Dataset`] gives
//! pixels, and [`view`] turns indices into boxes on originals.

pub mod augment;
mod cifar;
mod classes;
mod decode;
mod decoded;
mod digest;
mod encoded;
mod fast;
mod folder;
mod jpeg;
pub mod mosaics;
mod scan;
mod shards;
mod spec;
pub mod targets;
pub mod view;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tessera_tokenizers::{Image, Split};

pub use decode::decode_file;
pub use decoded::{RESIDENT, map};
pub use digest::Shape;
pub use scan::{Scan, Skipped, SplitScan, scan};
pub use shards::{Place, Shards};
pub use spec::{DATASETS, DatasetKind, DatasetSpec, Decoding, parse};
pub use view::{CropForm, EvalTransform, TrainStream, ViewPlan};

/// What can be wrong with the images.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A folder or file is absent or is not what it should be.
    #[error("{}: {message}", .path.display())]
    Path {
        /// The folder or file.
        path: PathBuf,
        /// What was expected, what was found, the remedy.
        message: String,
    },
    /// Too many images are broken to go on.
    #[error(
        "{broken} of {total} images do not decode (at most 1 % may); the first: {first}; remove or replace them"
    )]
    TooManyBroken {
        /// Images that don't decode.
        broken: usize,
        /// All images.
        total: usize,
        /// One of them and why.
        first: String,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl DataError {
    /// What is wrong at `path`.
    fn at(path: &Path, message: impl Into<String>) -> Self {
        Self::Path {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

/// Bytes of decoded images that training keeps in memory, so that a small dataset is decoded once.
const TRAINING_CACHE: usize = 512 << 20;

/// The images of a scanned dataset.
pub struct Dataset {
    source: Source,
    train: Half,
    val: Half,
    cache: Mutex<Cache>,
    /// All images decoded, once that is asked for.
    decoded: OnceLock<decoded::Decoded>,
    /// Largest side that is rendered, where files are decoded only as large as that needs.
    fast: Option<usize>,
}

/// What is known of a split's images without looking at them.
#[derive(Default)]
struct Half {
    labels: Vec<u32>,
    /// Of encoded images that were scanned; else none.
    shapes: Vec<Shape>,
}

impl Half {
    fn of(scan: &SplitScan) -> Self {
        Self {
            labels: scan.labels.clone(),
            shapes: scan.shapes.clone(),
        }
    }
}

enum Source {
    Encoded(Box<dyn encoded::Encoded>),
    Cifar(cifar::Records),
    Mosaics { seed: u64, size: usize },
}

impl Dataset {
    /// Opens what `scan` found.
    ///
    /// # Errors
    /// [`DataError::Path`] when files have gone since.
    pub fn open(spec: &DatasetSpec, scan: &Scan) -> Result<Self, DataError> {
        let source = match spec {
            DatasetSpec::ImageFolder { root, .. } => {
                Source::Encoded(Box::new(folder::Files::new(root, scan)))
            }
            DatasetSpec::WebDataset { .. } => Source::Encoded(Box::new(shards::Members::new(scan))),
            DatasetSpec::CifarBinary { root, classes } => {
                Source::Cifar(cifar::Records::read(root, *classes)?)
            }
            DatasetSpec::Mosaics { seed, size, .. } => Source::Mosaics {
                seed: *seed,
                size: *size,
            },
        };
        Ok(Self::new(
            source,
            Half::of(&scan.train),
            Half::of(&scan.val),
        ))
    }

    /// Image files wherever they lie, as a val split without labels (all 0) and an empty train split: for measuring what
    /// decoding and rendering cost, by the calls that a run makes.
    ///
    /// # Errors
    /// [`DataError::Path`] when a path is not UTF-8. Whether the files decode shows when they are asked for.
    pub fn of_files(files: &[PathBuf]) -> Result<Self, DataError> {
        let names = files.iter().map(|path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| DataError::Path {
                    path: path.clone(),
                    message: "the path is not UTF-8; rename the file".into(),
                })
        });
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let val = Half {
            labels: vec![0; names.len()],
            shapes: Vec::new(),
        };
        let source = Source::Encoded(Box::new(folder::Files::alone(names)));
        Ok(Self::new(source, Half::default(), val))
    }

    fn new(source: Source, train: Half, val: Half) -> Self {
        Self {
            source,
            train,
            val,
            cache: Mutex::new(Cache::new()),
            decoded: OnceLock::new(),
            fast: None,
        }
    }

    /// Keeps more decoded images in memory, for consumers that come by every epoch; nothing where all are mapped.
    pub fn keep_for_training(&self) {
        self.cache().limit = TRAINING_CACHE;
    }

    /// Label of every image of a split, in scan order.
    pub fn labels(&self, split: Split) -> &[u32] {
        &self.half(split).labels
    }

    fn half(&self, split: Split) -> &Half {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    /// Number of images of a split.
    pub fn len(&self, split: Split) -> usize {
        self.labels(split).len()
    }

    /// Whether a split has no images.
    pub fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// The decoded image `index` of a split.
    ///
    /// # Errors
    /// [`DataError::Path`] when it no longer decodes.
    pub fn image(&self, split: Split, index: usize) -> Result<Arc<Image>, DataError> {
        if let Some(decoded) = self.decoded.get() {
            // In the page cache, which gives way where memory is short: no copy of it is kept.
            return Ok(Arc::new(decoded.image(self.half(split), split, index)));
        }
        if let Some(image) = self.cache().get((split, index, 8)) {
            return Ok(image);
        }
        let image = Arc::new(match &self.source {
            Source::Encoded(images) => images.decode(split, index)?,
            Source::Cifar(records) => records.image(split, index),
            Source::Mosaics { seed, size } => mosaics::draw(*seed, split, index, *size),
        });
        self.cache().put((split, index, 8), &image);
        Ok(image)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A panic elsewhere leaves the cache whole: every change is one insertion.
        self.cache
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Decoded images, first in first out beyond the limit.
struct Cache {
    limit: usize,
    images: HashMap<Key, Arc<Image>>,
    order: VecDeque<Key>,
    bytes: usize,
}

/// An image at so many eighths of its size.
type Key = (Split, usize, u8);

impl Cache {
    fn new() -> Self {
        Self {
            // None unless asked: every consumer comes by once, and memory and time shall not tell a small split from a large one.
            limit: 0,
            images: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    fn get(&self, key: Key) -> Option<Arc<Image>> {
        self.images.get(&key).cloned()
    }

    fn put(&mut self, key: Key, image: &Arc<Image>) {
        if image.rgb.len() > self.limit {
            return;
        }
        if self.images.insert(key, Arc::clone(image)).is_none() {
            self.order.push_back(key);
            self.bytes += image.rgb.len();
        }
        while self.bytes > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(image) = self.images.remove(&oldest) {
                self.bytes -= image.rgb.len();
            }
        }
    }
}

#[cfg(test)]
mod tests;
