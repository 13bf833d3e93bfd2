//! The features of images, for as many passes as a fit makes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use tessera_kernels::simd::vectorized;

use crate::contract::{Features, ImageStream};
use crate::{Error, Result};

/// Images per task.
pub const SHARD: usize = 16;
/// Features of a fit are kept in a temporary file up to this size, and extracted again in every pass beyond it.
const KEPT_BYTES: u64 = 8 << 30;

/// Whether the features of so many images, `per_image` numbers each, are kept.
pub fn fit_in_cache(images: usize, per_image: usize) -> bool {
    (images * per_image * size_of::<f32>()) as u64 <= KEPT_BYTES
}

/// The features of images, extracted once where a temporary file can hold them: memory does not grow with the images.
pub struct Rows<'a> {
    features: &'a dyn Features,
    images: &'a dyn ImageStream,
    cache: Option<Cache>,
    /// Rows that were given back.
    spare: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// `again`: whether rows are asked for more than once.
    pub fn new(features: &'a dyn Features, images: &'a dyn ImageStream, again: bool) -> Self {
        let per_image = features.grid().num_patches() * features.dim();
        let cache = (again && fit_in_cache(images.len(), per_image))
            .then(|| Cache::new(images.len(), per_image));
        Self {
            features,
            images,
            cache: cache.and_then(io::Result::ok),
            spare: Vec::new(),
        }
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        self.features.grid().num_patches()
    }

    /// Rows of the images `indices`, `[images * patches, dim]`.
    pub fn get(&mut self, indices: &[usize]) -> Result<Vec<f32>> {
        let per_image = self.patches() * self.features.dim();
        let mut rows = std::mem::take(&mut self.spare);
        rows.resize(indices.len() * per_image, 0.0);
        let shards = indices.par_chunks(SHARD);
        let places = rows.par_chunks_mut(SHARD * per_image);
        shards.zip(places).try_for_each(|(shard, place)| {
            place.copy_from_slice(&self.shard(shard)?);
            self.check_finite(shard, place)
        })?;
        if let Some(cache) = &mut self.cache
            && cache.put(indices, &rows).is_err()
        {
            // A full disk costs time, not the fit.
            self.cache = None;
        }
        Ok(rows)
    }

    /// Takes rows back to write the next ones over: so many megabytes fresh from the system in every batch cost a page fault each
    /// 4 KiB, a fifth of a fit's time.
    pub fn give_back(&mut self, rows: Vec<f32>) {
        self.spare = rows;
    }

    /// Refuses rows of `images` that hold a number which is none.
    ///
    /// # Errors
    /// [`Error::Fit`] with the image and the patch.
    pub fn check_finite(&self, images: &[usize], rows: &[f32]) -> Result<()> {
        // The largest magnitude as bits, which tells at memory speed that there is nothing to look for.
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
            "k-means: train image {}, patch {}: found a feature of {}, expected finite numbers; check the features' \
             input scaling and their encoder",
            images[patch / self.patches()],
            patch % self.patches(),
            rows[at]
        )))
    }

    fn shard(&self, shard: &[usize]) -> Result<Vec<f32>> {
        let kept = self.cache.as_ref().and_then(|cache| cache.get(shard));
        if let Some(rows) = kept {
            return Ok(rows);
        }
        let view = self.images.view(shard)?;
        let rows = self.features.extract(&view.as_view())?;
        Ok(rows.flatten_all()?.to_vec1()?)
    }
}

/// A temporary file with a place for the features of each image.
struct Cache {
    file: Mutex<File>,
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

    fn at(&self, image: usize) -> SeekFrom {
        SeekFrom::Start((image * self.per_image * 4) as u64)
    }

    /// `None` unless all images are there and can be read.
    fn get(&self, images: &[usize]) -> Option<Vec<f32>> {
        if !images.iter().all(|image| self.known[*image]) {
            return None;
        }
        let mut bytes = vec![0; images.len() * self.per_image * 4];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for (image, place) in images
            .iter()
            .zip(bytes.chunks_exact_mut(self.per_image * 4))
        {
            file.seek(self.at(*image)).ok()?;
            file.read_exact(place).ok()?;
        }
        drop(file);
        let floats = bytes.as_chunks::<4>().0.iter();
        Some(floats.map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn put(&mut self, images: &[usize], rows: &[f32]) -> io::Result<()> {
        for (image, rows) in images.iter().zip(rows.chunks_exact(self.per_image)) {
            if self.known[*image] {
                continue;
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
