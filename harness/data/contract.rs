//! The contract of datasets: what a kind of dataset is, and how one is added.
//!
//! A [`DatasetFactory`] reads the suite's `dataset:` into a [`DatasetSpec`], which scans and opens the images. To add a kind,
//! implement both and register the factory: `Registry::builtin().with_dataset(MyFactory)`.

use std::fmt::Debug;
use std::path::Path;

use tessera_tokenizers::{Config, ConfigError, Image, Split, schemars};

use super::decoding::Decoding;
use super::encoded::Encoded;
use super::error::DataError;
use super::scan::Scan;

/// Reads the configuration of datasets of one kind. Stateless.
pub trait DatasetFactory: Send + Sync {
    /// Name in suite files, kebab-case: `image-folder`.
    fn kind(&self) -> &'static str;
    /// One line for `bench list datasets`.
    fn summary(&self) -> &'static str;
    /// JSON Schema of the fields beside `kind:`.
    fn schema(&self) -> schemars::Schema;
    /// Reads and checks `with` (the mapping without `kind`); [`Config::resolve_path`] gives paths as the user meant them. No image
    /// is read.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field.
    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError>;
}

/// A dataset as a suite describes it, checked.
pub trait DatasetSpec: Debug + Send + Sync {
    /// How encoded images become pixels.
    fn decoding(&self) -> Decoding {
        Decoding::default()
    }
    /// Which images there are, in which order, with which labels. The same images give the same scan: its fingerprint is part of
    /// the key of every stored result.
    ///
    /// # Errors
    /// [`DataError`] when the images are not what the suite says, or the user asks to stop.
    fn scan(&self, cx: &ScanContext<'_>) -> Result<Scan, DataError>;
    /// Opens what [`scan`](Self::scan) found.
    ///
    /// # Errors
    /// [`DataError::Path`] when files have gone since.
    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError>;
}

/// What a scan is given.
#[derive(Clone, Copy)]
pub struct ScanContext<'a> {
    /// A folder for what the next scan need not compute again.
    pub cache: &'a Path,
    /// Told about long work: done, total, note.
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
    /// Asked between images; true means stop with [`DataError::Interrupted`].
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

/// Where pixels come from.
pub enum PixelSource {
    /// JPEG, PNG or WebP, which the harness decodes.
    Encoded(Box<dyn Encoded>),
    /// Pixels as they are.
    Decoded(Box<dyn Pixels>),
}

/// Images that need no decoding.
pub trait Pixels: Send + Sync {
    /// Image `index` of a split, in scan order; the same pixels in every call, from any thread.
    ///
    /// # Errors
    /// [`DataError`] when it can no longer be read.
    fn image(&self, split: Split, index: usize) -> Result<Image, DataError>;
}
