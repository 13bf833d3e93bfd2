//! Rows of a fit on a device. They are computed there or copied there, and cached over the passes if they fit. Counts of a step
//! equal the CPU's; sums differ by rounding.

use rayon::prelude::*;
use tessera_kernels::device::launch::Dtype;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_kernels::ops::kmeans::device::{self, Centers, Found};
use tessera_kernels::ops::kmeans::launch::RUN;

use super::nearest::NotFinite;
use super::rows::{Rows, SHARD};
use super::step::{Step, task_rows};
use crate::Result;
use crate::contract::{DeviceFeatures, Features, ImageStream};
use crate::view::ViewBuf;

/// Fraction of the device's free memory for the cached rows. The rest is for batches and other programs.
const SHARE: f64 = 0.6;

/// Rows on a device.
pub struct DeviceRows {
    device: Device,
    /// `[n, dim]`.
    rows: Memory,
    dim: usize,
    /// Upper bound of the magnitude of all features.
    largest: f32,
}

impl DeviceRows {
    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// Reads the row `at` from the device, `[dim]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn row(&self, at: usize) -> Result<Vec<f32>> {
        let part = self.rows.part(at * self.dim..(at + 1) * self.dim);
        Ok(self.device.read(&part)?)
    }

    /// Computes [`step::farthest`](super::step::farthest) on the device.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn farthest(&self, centers: &[f32]) -> Result<Result<Vec<(f32, usize)>, NotFinite>> {
        let found = self.found(centers)?;
        if let Some(row) = failed(&found) {
            return Ok(Err(NotFinite { row }));
        }
        let tasks = found.runs.chunks(task_rows(found.counts.len()) / RUN);
        let farthest = tasks.map(|runs| {
            let first = runs[0].farthest;
            let further = |a: (f32, usize), b: (f32, usize)| if b.0 > a.0 { b } else { a };
            runs.iter().map(|run| run.farthest).fold(first, further)
        });
        Ok(Ok(farthest.collect()))
    }

    /// Computes [`Stepper::step`](super::Stepper::step) on the device.
    ///
    /// # Errors
    /// If the device fails; [`NotFinite`] if a row cannot be assigned.
    pub fn step(&self, centers: &[f32]) -> Result<Result<Step, NotFinite>> {
        Ok(as_step(self.found(centers)?))
    }

    fn found(&self, centers: &[f32]) -> Result<Found> {
        let centers = Centers::euclidean(&self.device, centers, self.dim)?;
        let found = device::step(&self.device, &self.rows, &centers, self.largest)?;
        Ok(found)
    }
}

fn failed(found: &Found) -> Option<usize> {
    found.runs.iter().find_map(|run| run.failed)
}

fn as_step(found: Found) -> Result<Step, NotFinite> {
    if let Some(row) = failed(&found) {
        return Err(NotFinite { row });
    }
    Ok(Step {
        inertia: found.runs.iter().map(|run| f64::from(run.inertia)).sum(),
        squares: found.runs.iter().map(|run| f64::from(run.squares)).sum(),
        sums: found.sums,
        counts: found.counts,
    })
}

/// Cached rows of all images requested so far.
struct Cache {
    rows: Memory,
    known: Vec<bool>,
    largest: f32,
}

/// Source of the rows of a fit on a device.
pub struct OnDevice<'a> {
    device: &'a Device,
    features: &'a dyn Features,
    images: &'a dyn ImageStream,
    cache: Option<Cache>,
}

impl<'a> OnDevice<'a> {
    /// Creates the source. `repeated`: whether rows are requested more than once.
    pub fn new(
        device: &'a Device,
        features: &'a dyn Features,
        images: &'a dyn ImageStream,
        repeated: bool,
    ) -> Self {
        let mut new = Self {
            device,
            features,
            images,
            cache: None,
        };
        let numbers = images.len() * new.per_image();
        let free = device.free_bytes().unwrap_or(0) as f64;
        if repeated && (4 * numbers) as f64 <= SHARE * free {
            // If the allocation fails, every pass copies the rows again.
            new.cache = device.room(Dtype::F32, numbers).ok().map(|rows| Cache {
                rows,
                known: vec![false; images.len()],
                largest: 0.0,
            });
        }
        new
    }

    /// Returns whether rows are cached on the device.
    pub fn caches(&self) -> bool {
        self.cache.is_some()
    }

    fn per_image(&self) -> usize {
        self.features.grid().num_patches() * self.features.dim()
    }

    /// Returns the rows of the images `indices`. Features without kernels come from `host`.
    ///
    /// # Errors
    /// Errors from reading, extracting and the device; [`Error::Fit`](crate::Error::Fit) if a feature is not finite.
    pub fn get(&mut self, host: &mut Rows<'_>, indices: &[usize]) -> Result<DeviceRows> {
        let per_image = self.per_image();
        if let Some(cache) = &self.cache
            && indices.iter().all(|image| cache.known[*image])
        {
            return Ok(self.device_rows(self.cached(cache, indices)?, cache.largest));
        }
        let rows = match self.features.on_device() {
            Some(features) => self.extract(features, indices)?,
            None => {
                let rows = host.get(indices)?;
                let copied = self.device.put(&rows)?;
                host.recycle(rows);
                copied
            }
        };
        let largest = device::largest(self.device, &rows, self.features.dim())?;
        if !largest.is_finite() {
            host.check_finite(indices, &self.device.read::<f32>(&rows)?)?;
        }
        let Some(cache) = &mut self.cache else {
            return Ok(self.device_rows(rows, largest));
        };
        for (at, image) in indices.iter().enumerate() {
            if !std::mem::replace(&mut cache.known[*image], true) {
                let span = |at: usize| at * per_image..(at + 1) * per_image;
                let to = cache.rows.part(span(*image));
                self.device.copy(&to, &rows.part(span(at)))?;
            }
        }
        cache.largest = cache.largest.max(largest);
        Ok(self.device_rows(rows, largest))
    }

    fn device_rows(&self, rows: Memory, largest: f32) -> DeviceRows {
        DeviceRows {
            device: self.device.clone(),
            rows,
            dim: self.features.dim(),
            largest,
        }
    }

    /// Decodes images on all threads and extracts their features with kernels.
    fn extract(&self, features: &dyn DeviceFeatures, indices: &[usize]) -> Result<Memory> {
        let views = indices.par_chunks(SHARD);
        let views = views.map(|shard| self.images.view(shard));
        let views: Vec<ViewBuf> = views.collect::<Result<_>>()?;
        let all = ViewBuf(views.into_iter().flat_map(|view| view.0).collect());
        features.extract(self.device, &all.as_view())
    }

    /// Returns cached rows: a part of the cache if `indices` are consecutive, otherwise a gathered copy.
    fn cached(&self, cache: &Cache, indices: &[usize]) -> Result<Memory> {
        let (per_image, patches) = (self.per_image(), self.features.grid().num_patches());
        let first = indices[0];
        if indices.iter().copied().eq(first..first + indices.len()) {
            let part = first * per_image..(first + indices.len()) * per_image;
            let part = cache.rows.part(part);
            if part.is_aligned() {
                return Ok(part);
            }
        }
        let rows = indices.iter().flat_map(|image| {
            let first = (image * patches) as u32;
            first..first + patches as u32
        });
        let rows: Vec<u32> = rows.collect();
        let dim = self.features.dim();
        Ok(device::gathered(self.device, &cache.rows, &rows, dim)?)
    }
}
