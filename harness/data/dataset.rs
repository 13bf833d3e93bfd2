//! The images of a scanned dataset: labels by index, pixels on demand.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tessera_kernels::device::launcher::Device;
use tessera_tokenizers::{Fingerprint, Image, Split};

use super::contract::{DatasetSpec, PixelSource, ScanContext};
use super::decoded::{self, Decoded};
use super::digest::Shape;
use super::error::DataError;
use super::kinds::Files;
use super::scan::{Scan, SplitScan};

/// Scans `spec`. `cache` is a folder for digests by size and time; `progress` is told (done, total, note).
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
        // Other pixels: another dataset, for stored stages and for who compares runs.
        scan.name.push_str(" (fast_decode)");
        scan.fingerprint = Fingerprint::of(&[scan.fingerprint.0.as_bytes(), b"fast_decode 1"]);
    }
    Ok(scan)
}

/// Bytes of decoded images that training keeps in memory, so that a small dataset is decoded once.
const TRAINING_CACHE: usize = 512 << 20;

/// The images of a scanned dataset.
pub struct Dataset {
    /// Where pixels come from.
    pub(super) source: PixelSource,
    train: Half,
    val: Half,
    cache: Mutex<Cache>,
    /// All images decoded, once that is asked for.
    decoded: OnceLock<Decoded>,
    /// Largest side that is rendered, where files are decoded only as large as that needs.
    pub(super) fast: Option<usize>,
}

/// What is known of a split's images without looking at them.
#[derive(Default)]
pub(super) struct Half {
    labels: Vec<u32>,
    /// Of encoded images that were scanned; else none.
    pub shapes: Vec<Shape>,
}

impl Half {
    fn of(scan: &SplitScan) -> Self {
        Self {
            labels: scan.labels.clone(),
            shapes: scan.shapes.clone(),
        }
    }
}

impl Dataset {
    /// Opens what `scan` found.
    ///
    /// # Errors
    /// [`DataError::Path`] when files have gone since.
    pub fn open(spec: &dyn DatasetSpec, scan: &Scan) -> Result<Self, DataError> {
        Ok(Self::new(
            spec.open(scan)?,
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
        let source = PixelSource::Encoded(Box::new(Files::alone(names)));
        Ok(Self::new(source, Half::default(), val))
    }

    fn new(source: PixelSource, train: Half, val: Half) -> Self {
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

    /// What is known of the images of a split.
    pub(super) fn half(&self, split: Split) -> &Half {
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
            let shape = self.half(split).shapes[index];
            return Ok(Arc::new(decoded.image(split, index, shape)));
        }
        if let Some(image) = self.cache().get((split, index, 8)) {
            return Ok(image);
        }
        let image = Arc::new(match &self.source {
            PixelSource::Encoded(images) => images.decode(split, index)?,
            PixelSource::Decoded(images) => images.image(split, index)?,
        });
        self.cache().put((split, index, 8), &image);
        Ok(image)
    }

    /// Bytes that all images have when decoded; `None` of a dataset whose images are not encoded.
    pub fn decoded_bytes(&self) -> Option<u64> {
        let shapes = || self.train.shapes.iter().chain(&self.val.shapes);
        let encoded = matches!(self.source, PixelSource::Encoded(_));
        (encoded && shapes().next().is_some()).then(|| shapes().map(|s| s.bytes()).sum())
    }

    /// Decodes every image into the file at `path`, on all threads, a few images in memory at a time.
    ///
    /// # Errors
    /// When an image no longer decodes to what was scanned, the file cannot be written, or the user asks to stop.
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
        decoded::write(path, train + val, &image, progress)
    }

    /// An image of the size that the scan saw.
    fn scanned(&self, split: Split, index: usize) -> Result<Image, DataError> {
        let PixelSource::Encoded(images) = &self.source else {
            let image = self.image(split, index)?;
            return Ok(Image::clone(&image));
        };
        let image = images.decode(split, index)?;
        let (found, expected) = (
            (image.width, image.height),
            self.half(split).shapes[index].size(),
        );
        if found != expected {
            return Err(images.changed(
                split,
                index,
                &format!("is {found:?} pixels, expected {expected:?}"),
            ));
        }
        Ok(image)
    }

    /// Takes images from the file at `path`, which [`write_decoded`](Self::write_decoded) wrote for the same scan.
    ///
    /// # Errors
    /// [`DataError::Path`] when it cannot be mapped or has another size.
    pub fn use_decoded(&self, path: &Path) -> Result<(), DataError> {
        self.use_decoded_by(path, None)
    }

    /// The same, with all pixels in memory that `device` reads by itself; it is as much as the file.
    ///
    /// # Errors
    /// As [`use_decoded`](Self::use_decoded). Where the system gives no such memory the file stays mapped.
    pub fn use_decoded_on(&self, path: &Path, device: &Device) -> Result<(), DataError> {
        self.use_decoded_by(path, Some(device))
    }

    fn use_decoded_by(&self, path: &Path, device: Option<&Device>) -> Result<(), DataError> {
        let shapes = [&self.train.shapes[..], &self.val.shapes];
        let _ = self.decoded.set(Decoded::open(path, shapes, device)?);
        Ok(())
    }

    /// The decoded images that are kept in memory.
    pub(super) fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A panic elsewhere leaves the cache whole: every change is one insertion.
        self.cache
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Decoded images, first in first out beyond the limit.
pub(super) struct Cache {
    limit: usize,
    images: HashMap<Key, Arc<Image>>,
    order: VecDeque<Key>,
    bytes: usize,
}

/// An image at so many eighths of its size.
pub(super) type Key = (Split, usize, u8);

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

    /// The image, where it is kept.
    pub fn get(&self, key: Key) -> Option<Arc<Image>> {
        self.images.get(&key).cloned()
    }

    /// Keeps an image that fits; the oldest ones go beyond the limit.
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
