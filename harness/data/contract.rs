//! The contract of datasets.
//!
//! A [`DatasetFactory`] reads the suite's `dataset:` into a [`DatasetSpec`], which scans and opens the images. To add a kind,
//! implement both and register the factory: `Registry::builtin().with_dataset(MyFactory)`.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tessera_tokenizers::{Config, ConfigError, Image, Split, schemars};

use super::decoding::Decoding;
use super::encoded::Encoded;
use super::error::DataError;
use super::left_out::Omitted;
use super::scan::Scan;

/// Reads the configuration of datasets of one kind. Stateless.
pub trait DatasetFactory: Send + Sync {
    /// Name in suite files, kebab-case: `image-folder`.
    fn kind(&self) -> &'static str;
    /// One line for `bench list datasets`.
    fn summary(&self) -> &'static str;
    /// JSON Schema of the fields beside `kind:`.
    fn schema(&self) -> schemars::Schema;
    /// Reads and checks `with` (the mapping without `kind`), without reading images. [`Config::resolve_path`] resolves paths.
    ///
    /// # Errors
    /// [`ConfigError`] that names the field.
    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError>;
}

/// A checked description of a dataset in a suite.
pub trait DatasetSpec: Debug + Send + Sync {
    /// Returns how encoded images are decoded.
    fn decoding(&self) -> Decoding {
        Decoding::default()
    }
    /// Returns the images, their order and their labels. Equal images give equal scans; the fingerprint is part of the key of every
    /// stored result.
    ///
    /// # Errors
    /// [`DataError`] if the images are not those that the suite describes, or the user interrupts.
    fn scan(&self, cx: &ScanContext<'_>) -> Result<Scan, DataError>;
    /// Checks that the files are there, as far as that is possible without decoding images, for `bench validate`.
    ///
    /// # Errors
    /// [`DataError`] if the files are missing or not those that the suite describes.
    fn survey(&self) -> Result<Survey, DataError> {
        Ok(Survey::default())
    }
    /// Returns the folders whose visible content counts as images and their classes, so that nothing else may be written there.
    fn folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Returns what decides, besides the images, the content of a scan, if a stored scan may stand for the files on other machines; `None` if
    /// every machine must scan. Only for encoded images, which are compared with their digests when they are read.
    ///
    /// # Errors
    /// [`DataError`] if a file that the suite names cannot be read.
    fn snapshot(&self) -> Result<Option<Value>, DataError> {
        Ok(None)
    }
    /// Opens the images of a [`scan`](Self::scan).
    ///
    /// # Errors
    /// [`DataError::Path`] if files are missing now.
    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError>;
}

/// What [`DatasetSpec::survey`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Numbers of train and of val images that are known before the scan. Some may not decode.
    pub images: [Option<usize>; 2],
    /// Files that are left out.
    pub omitted: Omitted,
    /// The only class, if it is known that there is one.
    pub single_class: Option<String>,
}

/// Inputs of a scan.
#[derive(Clone, Copy)]
pub struct ScanContext<'a> {
    /// Folder for results that the next scan reuses.
    pub cache: &'a Path,
    /// Receives the progress of long work: done, total, note.
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
    /// Polled between images; true stops the scan with [`DataError::Interrupted`].
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

/// Source of pixels.
pub enum PixelSource {
    /// JPEG, PNG or WebP files, which the harness decodes.
    Encoded(Box<dyn Encoded>),
    /// Pixels.
    Decoded(Box<dyn Pixels>),
}

/// Images that need no decoding.
pub trait Pixels: Send + Sync {
    /// Returns image `index` of a split, in scan order: the same pixels in every call, from any thread.
    ///
    /// # Errors
    /// [`DataError`] if it can no longer be read.
    fn image(&self, split: Split, index: usize) -> Result<Image, DataError>;
}
