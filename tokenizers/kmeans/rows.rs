//! Features of images for all passes of a fit.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError, RwLock};

use rayon::prelude::*;
use tessera_kernels::simd::vectorized;

use crate::contract::{Features, ImageStream};
use crate::view::View;
use crate::{Error, Result};

/// Images per task.
pub const SHARD: usize = 16;
/// Maximum bytes of features in the temporary file. Larger features are extracted again in every pass.
const CACHED_BYTES: u64 = 8 << 30;

/// Returns whether the features of `images` images, `per_image` numbers each, are cached.
pub fn fit_in_cache(images: usize, per_image: usize) -> bool {
    (images * per_image * size_of::<f32>()) as u64 <= CACHED_BYTES
}

/// Features of images, cached in a temporary file if they fit, so that memory does not grow with the number of images.
pub struct Rows<'a> {
    features: &'a dyn Features,
    images: &'a dyn ImageStream,
    cache: Option<Cache>,
    /// Memory for the next rows.
    spare: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// Creates the reader. `repeated`: whether rows are requested more than once.
    pub fn new(features: &'a dyn Features, images: &'a dyn ImageStream, repeated: bool) -> Self {
        let per_image = features.grid().num_patches() * features.dim();
        let cache = (repeated && fit_in_cache(images.len(), per_image))
            .then(|| Cache::new(images.len(), per_image));
        Self {
            features,
            images,
            cache: cache.and_then(io::Result::ok),
            spare: Vec::new(),
        }
    }

    /// Returns the number of patches per image.
    pub fn patches(&self) -> usize {
        self.features.grid().num_patches()
    }

    /// Returns the rows of the images `indices`, `[images * patches, dim]`.
    pub fn get(&mut self, indices: &[usize]) -> Result<Vec<f32>> {
        let per_image = self.patches() * self.features.dim();
        let mut rows = std::mem::take(&mut self.spare);
        rows.resize(indices.len() * per_image, 0.0);
        let shards = indices.par_chunks(SHARD);
        let chunks = rows.par_chunks_mut(SHARD * per_image);
        shards.zip(chunks).try_for_each(|(shard, chunk)| {
            chunk.copy_from_slice(&self.shard(shard)?);
            self.check_finite(shard, chunk)
        })?;
        if let Some(cache) = &mut self.cache
            && cache.put(indices, &rows).is_err()
        {
            // If the disk is full, the fit continues without the cache.
            self.cache = None;
        }
        Ok(rows)
    }

    /// Takes back the memory of `rows` for the next rows. New memory for every batch costs a page fault per 4 KiB, a fifth of a fit's
    /// time.
    pub fn recycle(&mut self, rows: Vec<f32>) {
        self.spare = rows;
    }

    /// Refuses rows of `images` that contain NaN or infinity.
    ///
    /// # Errors
    /// [`Error::Fit`] with the image and the patch.
    pub fn check_finite(&self, images: &[usize], rows: &[f32]) -> Result<()> {
        // The largest magnitude, compared as bits, shows at memory speed whether all values are finite.
        let largest = vectorized(
            #[inline(always)]
            || {
                rows.iter()
                    .fold(0, |largest, v| (v.to_bits() << 1).max(largest))
            },
        );
        if largest < f32::INFINITY.to_bits() << 1 {
            return Ok(());
        }
        let Some(at) = rows.iter().position(|value| !value.is_finite()) else {
            return Ok(());
        };
        let patch = at / self.features.dim();
        Err(Error::Fit(format!(
            "k-means: train image {}, patch {}: found the feature value {}, expected finite numbers; check the features' \
             input scaling and their encoder",
            images[patch / self.patches()],
            patch % self.patches(),
            rows[at]
        )))
    }

    fn shard(&self, shard: &[usize]) -> Result<Vec<f32>> {
        let cached = self.cache.as_ref().and_then(|cache| cache.get(shard));
        if let Some(rows) = cached {
            return Ok(rows);
        }
        let view = self.images.view(shard)?;
        let rows = self.features.extract(&view.as_view())?;
        Ok(rows.flatten_all()?.to_vec1()?)
    }
}

/// Features that several fits need, computed once if they fit into a temporary file.
pub struct Shared<'a> {
    features: &'a dyn Features,
    cache: RwLock<Option<Cache>>,
}

impl<'a> Shared<'a> {
    /// Shares `features` of `images` images.
    pub fn new(features: &'a dyn Features, images: usize) -> Self {
        let per_image = features.grid().num_patches() * features.dim();
        let cache = fit_in_cache(images, per_image).then(|| Cache::new(images, per_image));
        let cache = RwLock::new(cache.and_then(io::Result::ok));
        Self { features, cache }
    }

    /// Returns the rows of a view of an image stream, `[images * patches, dim]`. A stream has one view of each image.
    pub fn rows(&self, view: &View<'_>) -> Result<Vec<f32>> {
        let images: Vec<usize> = view.samples().iter().map(|s| s.id.index).collect();
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = cache.as_ref().and_then(|cache| cache.get(&images)) {
            return Ok(rows);
        }
        drop(cache);
        let rows: Vec<f32> = self.features.extract(view)?.flatten_all()?.to_vec1()?;
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = cache.as_mut()
            && kept.put(&images, &rows).is_err()
        {
            *cache = None;
        }
        Ok(rows)
    }
}

/// A temporary file with the features of each image at a fixed offset.
struct Cache {
    file: Mutex<File>,
    /// By image; those beyond the end are unknown.
    known: Vec<bool>,
    per_image: usize,
}

impl Cache {
    fn new(images: usize, per_image: usize) -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new(tempfile::tempfile()?),
            known: vec![false; images],
            per_image,
        })
    }

    fn knows(&self, image: usize) -> bool {
        self.known.get(image).is_some_and(|known| *known)
    }

    fn at(&self, image: usize) -> SeekFrom {
        SeekFrom::Start((image * self.per_image * 4) as u64)
    }

    /// Returns the features of `images`, or `None` unless all are cached and readable.
    fn get(&self, images: &[usize]) -> Option<Vec<f32>> {
        if !images.iter().all(|image| self.knows(*image)) {
            return None;
        }
        let mut bytes = vec![0; images.len() * self.per_image * 4];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for (image, chunk) in images
            .iter()
            .zip(bytes.chunks_exact_mut(self.per_image * 4))
        {
            file.seek(self.at(*image)).ok()?;
            file.read_exact(chunk).ok()?;
        }
        drop(file);
        let floats = bytes.as_chunks::<4>().0.iter();
        Some(floats.map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn put(&mut self, images: &[usize], rows: &[f32]) -> io::Result<()> {
        for (image, rows) in images.iter().zip(rows.chunks_exact(self.per_image)) {
            if self.knows(*image) {
                continue;
            }
            if *image >= self.known.len() {
                self.known.resize(*image + 1, false);
            }
            let bytes: Vec<u8> = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(self.at(*image))?;
            file.write_all(&bytes)?;
            drop(file);
            self.known[*image] = true;
        }
        Ok(())
    }
}
