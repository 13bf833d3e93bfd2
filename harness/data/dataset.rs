//! The images of a scanned dataset: labels by index, pixels on demand.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tessera_tokenizers::{Fingerprint, Image, Split};

use super::contract::{DatasetSpec, PixelSource, ScanContext};
use super::decode::{decode, decode_reduced};
use super::decoded::{self, Decoded};
use super::encoded::Encoded;
use super::error::DataError;
use super::kinds::Files;
use super::names::Names;
use super::scan::{Scan, SplitScan};

/// Scans `spec`. `cache` is a folder for digests by size and time; `progress` receives (done, total, note).
///
/// # Errors
/// [`DataError`].
pub fn scan(
    spec: &dyn DatasetSpec,
    cache: &Path,
    progress: &(dyn Fn(usize, usize, &str) + Sync),
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Scan, DataError> {
    let mut scan = spec.scan(&ScanContext {
        cache,
        progress,
        interrupted,
    })?;
    scan.check()?;
    if spec.decoding().fast {
        // The pixels differ, so this is another dataset for stored stages and for comparisons of runs.
        scan.name.push_str(" (fast_decode)");
        scan.fingerprint = Fingerprint::of(&[scan.fingerprint.0.as_bytes(), b"fast_decode 1"]);
    }
    Ok(scan)
}

/// Maximum bytes of decoded images in memory during training, so that a small dataset is decoded once.
pub const TRAINING_CACHE: usize = 512 << 20;

/// Remedy for an image that is not the one that was scanned.
const AGAIN: &str = "it was another image when it was scanned; run the same command again to scan it as it is now, without `--scan`, or `bench plan` or `bench submit` again";
/// Why an image differs from the scanned one although its bytes are the same.
const OTHERWISE: &str = "its bytes are those that were scanned; if another version of this program scanned them, remove the folder `scan` of the store and run \
                         the same command again, without `--scan`";

/// The images of a scanned dataset.
pub struct Dataset {
    pub(super) source: PixelSource,
    train: Arc<SplitScan>,
    val: Arc<SplitScan>,
    cache: Mutex<Cache>,
    /// All images decoded, after [`use_decoded`](Self::use_decoded).
    decoded: RwLock<Option<Arc<Decoded>>>,
    /// Largest side that is rendered, if files are decoded no larger than necessary.
    pub(super) fast: Option<usize>,
}

impl Dataset {
    /// Opens the images of `scan`.
    ///
    /// # Errors
    /// [`DataError::Path`] if files are missing now.
    pub fn open(spec: &dyn DatasetSpec, scan: &Scan) -> Result<Self, DataError> {
        Ok(Self::new(
            spec.open(scan)?,
            Arc::clone(&scan.train),
            Arc::clone(&scan.val),
        ))
    }

    /// Opens image files as a val split whose labels are all 0, with an empty train split, to measure decoding and rendering.
    ///
    /// # Errors
    /// [`DataError::Path`] if a path is not UTF-8. Files are read only when an image is requested.
    pub fn of_files(files: &[PathBuf]) -> Result<Self, DataError> {
        let names = files.iter().map(|path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| DataError::Path {
                    path: path.clone(),
                    message: "the path is not UTF-8; rename the file".into(),
                })
        });
        let names = names.collect::<Result<Names, _>>()?;
        let val = Arc::new(SplitScan {
            labels: vec![0; names.len()],
            names,
            ..SplitScan::default()
        });
        let train = Arc::default();
        let files = Files::new(PathBuf::new(), &train, &val);
        Ok(Self::new(PixelSource::Encoded(Box::new(files)), train, val))
    }

    fn new(source: PixelSource, train: Arc<SplitScan>, val: Arc<SplitScan>) -> Self {
        Self {
            source,
            train,
            val,
            cache: Mutex::new(Cache::new()),
            decoded: RwLock::default(),
            fast: None,
        }
    }

    /// Caches decoded images for training, which reads them in every epoch. Mapped images are not cached.
    pub fn keep_for_training(&self) {
        self.cache().limit = TRAINING_CACHE;
    }

    /// Returns the label of every image of a split, in scan order.
    pub fn labels(&self, split: Split) -> &[u32] {
        &self.split_info(split).labels
    }

    pub(super) fn split_info(&self, split: Split) -> &SplitScan {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    /// Returns the number of images of a split.
    pub fn len(&self, split: Split) -> usize {
        self.labels(split).len()
    }

    /// Returns whether a split has no images.
    pub fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// Returns image `index` of a split, decoded.
    ///
    /// # Errors
    /// [`DataError::Path`] if it no longer decodes.
    pub fn image(&self, split: Split, index: usize) -> Result<Arc<Image>, DataError> {
        if let Some(decoded) = self.mapped() {
            // The page cache holds it and shrinks when memory is short, so no copy is cached.
            let shape = self.split_info(split).shapes[index];
            return Ok(Arc::new(decoded.image(split, index, shape)));
        }
        if let Some(image) = self.cache().get((split, index, 8)) {
            return Ok(image);
        }
        let image = Arc::new(match &self.source {
            PixelSource::Encoded(images) => self.decoded(images.as_ref(), split, index, 8)?,
            PixelSource::Decoded(images) => images.image(split, index)?,
        });
        self.cache().put((split, index, 8), &image);
        Ok(image)
    }

    /// Returns the bytes of all decoded images; `None` for a dataset whose images are not encoded.
    pub fn decoded_bytes(&self) -> Option<u64> {
        let shapes = || self.train.shapes.iter().chain(&self.val.shapes);
        let encoded = matches!(self.source, PixelSource::Encoded(_));
        (encoded && shapes().next().is_some()).then(|| shapes().map(|s| s.bytes()).sum())
    }

    /// Decodes every image into the file at `path`, on all threads, with a few images in memory at a time.
    ///
    /// # Errors
    /// If an image no longer decodes to its scanned size, the file cannot be written, or the user interrupts.
    pub fn write_decoded(
        &self,
        path: &Path,
        progress: &(dyn Fn(usize, usize, &str) + Sync),
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), DataError> {
        let [train, val] = [Split::Train, Split::Val].map(|split| self.len(split));
        let image = |at: usize| {
            if interrupted() {
                return Err(DataError::Interrupted);
            }
            match at < train {
                true => self.scanned(Split::Train, at),
                false => self.scanned(Split::Val, at - train),
            }
        };
        let bytes = self.decoded_bytes().unwrap_or_default();
        decoded::write(path, (train + val, bytes), &image, progress)
    }

    /// Decodes an image, past the cache of decoded images.
    fn scanned(&self, split: Split, index: usize) -> Result<Image, DataError> {
        let PixelSource::Encoded(images) = &self.source else {
            let image = self.image(split, index)?;
            return Ok(Image::clone(&image));
        };
        self.decoded(images.as_ref(), split, index, 8)
    }

    /// Reads an encoded image, compares it with what was scanned, and decodes it at `eighths` eighths of its size.
    ///
    /// # Errors
    /// If it is missing, is not the scanned image, or does not decode.
    pub(super) fn decoded(
        &self,
        images: &dyn Encoded,
        split: Split,
        index: usize,
        eighths: u8,
    ) -> Result<Image, DataError> {
        let bytes = images.read(split, index)?;
        let scanned = self.split_info(split);
        let why = match scanned.digests.get(index) {
            Some(digest) if blake3::hash(&bytes) != *digest => {
                let message = "changed: its bytes have another digest";
                return Err(images.refuse(split, index, format!("{message}; {AGAIN}")));
            }
            Some(_) => OTHERWISE,
            None => AGAIN,
        };
        let image = match eighths {
            8 => decode(&bytes),
            _ => decode_reduced(&bytes, eighths),
        };
        let image = image.map_err(|e| images.refuse(split, index, format!("{e}; {why}")))?;
        let found = (image.width, image.height);
        match scanned.shapes.get(index).map(|shape| shape.size()) {
            Some(expected) if eighths == 8 && found != expected => {
                let message = format!("is {found:?} pixels, expected {expected:?}; {why}");
                Err(images.refuse(split, index, message))
            }
            _ => Ok(image),
        }
    }

    /// Reads images from the file at `path`, which [`write_decoded`](Self::write_decoded) wrote for the same scan, in place of an earlier one.
    ///
    /// # Errors
    /// [`DataError::Path`] if it cannot be mapped or has another size.
    pub fn use_decoded(&self, path: &Path) -> Result<(), DataError> {
        let shapes = [&self.train.shapes[..], &self.val.shapes];
        let decoded = Arc::new(Decoded::open(path, shapes)?);
        let mut mapped = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        *mapped = Some(decoded);
        Ok(())
    }

    fn mapped(&self) -> Option<Arc<Decoded>> {
        let mapped = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
        mapped.clone()
    }

    pub(super) fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A panic elsewhere leaves the cache consistent, because every change is one insertion.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cache of decoded images, first in first out.
pub(super) struct Cache {
    limit: usize,
    images: HashMap<Key, Arc<Image>>,
    order: VecDeque<Key>,
    bytes: usize,
}

/// Split, index, and size in eighths of the original.
pub(super) type Key = (Split, usize, u8);

impl Cache {
    fn new() -> Self {
        Self {
            // Other consumers than training read each image once, and memory must not grow with the number of images.
            limit: 0,
            images: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Returns the image if it is cached.
    pub fn get(&self, key: Key) -> Option<Arc<Image>> {
        self.images.get(&key).cloned()
    }

    /// Caches an image that fits, and drops the oldest ones beyond the limit.
    pub fn put(&mut self, key: Key, image: &Arc<Image>) {
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
