//! State of a running fit: its images, their features, and its random numbers.

use rand::RngCore;
use rand::seq::{SliceRandom, index};
use tessera_models::rng::{ChaCha8Rng, keyed_rng};

use super::codebook::{Codebook, Inertia};
use super::device::{DeviceRows, OnDevice};
use super::fields::{Algorithm, Engine, Fields, Init};
use super::nearest::NotFinite;
use super::rows::Rows;
use super::seeding;
use super::step::{self, Step, Stepper};
use crate::contract::{Features, ImageStream};
use crate::registry::BuildContext;
use crate::{Error, Result};

/// Minimum sample of patches for k-means++ (scikit-learn: three times the batch).
const SEED_ROWS: usize = 4096;
/// Minimum sample of patches for k-means||.
const PARALLEL_SEED_ROWS: usize = 65_536;

/// State of a fit, for one start after another.
pub struct Run<'a> {
    /// The features of the images.
    pub rows: Rows<'a>,
    /// Features per patch.
    pub dim: usize,
    /// Indices of the images of the fit.
    pub fitted: Vec<usize>,
    /// The fields of the suite.
    pub fields: &'a Fields,
    seed: u64,
    /// Number of the current start, from 0.
    pub restart: usize,
    stepper: Stepper,
    on_device: Option<OnDevice<'a>>,
    cx: &'a BuildContext<'a>,
}

/// Rows of a batch of images.
pub enum Batch {
    /// In host memory, `[n, dim]`.
    Host(Vec<f32>),
    /// On a device.
    Device(DeviceRows),
}

impl Batch {
    /// Returns the number of rows, each of `dim` features.
    pub fn count(&self, dim: usize) -> usize {
        match self {
            Self::Host(rows) => rows.len() / dim,
            Self::Device(rows) => rows.count(),
        }
    }

    /// Returns the row `at`, `[dim]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn row(&self, at: usize, dim: usize) -> Result<Vec<f32>> {
        match self {
            Self::Host(rows) => Ok(rows[at * dim..(at + 1) * dim].to_vec()),
            Self::Device(rows) => rows.row(at),
        }
    }
}

impl<'a> Run<'a> {
    /// Prepares a fit on the images `fitted`.
    pub fn new(
        features: &'a dyn Features,
        images: &'a dyn ImageStream,
        fitted: Vec<usize>,
        fields: &'a Fields,
        seed: u64,
        cx: &'a BuildContext<'a>,
    ) -> Self {
        let repeated = fields.epochs > 1 || fields.restarts > 1 || fields.held_out == 0;
        let repeated = repeated || fields.algorithm == Algorithm::Lloyd;
        let device = cx.device.filter(|_| fields.engine == Engine::Gemm);
        let on_device = device.map(|device| OnDevice::new(device, features, images, repeated));
        let cached = on_device.as_ref().is_some_and(OnDevice::caches);
        Self {
            rows: Rows::new(features, images, repeated && !cached),
            dim: features.dim(),
            fitted,
            fields,
            seed,
            restart: 0,
            stepper: Stepper::new(),
            on_device,
            cx,
        }
    }

    /// Returns the generator for one purpose. The first of several starts draws the same numbers as a single start.
    pub fn rng(&self, stage: &str, epoch: usize, at: usize) -> ChaCha8Rng {
        let seed = match self.restart {
            0 => self.seed,
            restart => keyed_rng(self.seed, "kmeans-restart", 0, restart as u64).next_u64(),
        };
        keyed_rng(seed, stage, epoch as u64, at as u64)
    }

    /// Returns the order of the images in an epoch.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order = self.fitted.clone();
        if self.fields.shuffle {
            order.shuffle(&mut self.rng("kmeans-order", epoch, 0));
        }
        order
    }

    /// Chooses first centres among random patches of the first images of the first epoch.
    pub fn first_centers(&mut self) -> Result<Vec<f32>> {
        let k = self.fields.k;
        let wanted = seed_rows(self.fields);
        let order = self.order(0);
        let images = wanted.div_ceil(self.rows.patches());
        let images = images.max(self.fields.batch).min(order.len());
        let all = self.rows.get(&order[..images])?;
        let mut rng = self.rng("kmeans-seeding", 0, 0);
        let n = all.len() / self.dim;
        let chosen = index::sample(&mut rng, n, wanted.min(n)).into_iter();
        let sample: Vec<f32> = chosen
            .flat_map(|i| &all[i * self.dim..(i + 1) * self.dim])
            .copied()
            .collect();
        drop(all);
        let check = || self.check_interrupted();
        seeding::first_centers(self.fields.init, &sample, self.dim, k, &mut rng, &check)
    }

    /// Returns the rows of `images`, on the device if the fit runs there.
    pub fn batch(&mut self, images: &[usize]) -> Result<Batch> {
        match &mut self.on_device {
            Some(on_device) => Ok(Batch::Device(on_device.get(&mut self.rows, images)?)),
            None => Ok(Batch::Host(self.rows.get(images)?)),
        }
    }

    /// Takes back the memory of a batch for the next one.
    pub fn recycle(&mut self, batch: Batch) {
        if let Batch::Host(rows) = batch {
            self.rows.recycle(rows);
        }
    }

    /// Assigns the rows of `images` once.
    pub fn step(&mut self, centers: &[f32], images: &[usize], rows: &Batch) -> Result<Step> {
        let patches = self.rows.patches();
        let found = match rows {
            Batch::Host(rows) => self.stepper.step(rows, self.dim, centers),
            Batch::Device(rows) => rows.step(centers)?,
        };
        found.map_err(|found| not_finite(found, images, patches))
    }

    /// Returns the farthest rows of `images`; see [`step::farthest`].
    pub fn farthest(
        &self,
        centers: &[f32],
        images: &[usize],
        rows: &Batch,
    ) -> Result<Vec<(f32, usize)>> {
        let found = match rows {
            Batch::Host(rows) => step::farthest(rows, self.dim, centers),
            Batch::Device(rows) => rows.farthest(centers)?,
        };
        found.map_err(|found| not_finite(found, images, self.rows.patches()))
    }

    /// Assigns all rows of `images` once, batch by batch.
    pub fn pass(&mut self, centers: &[f32], images: &[usize]) -> Result<Step> {
        let mut total = Step::nothing(centers.len() / self.dim, self.dim);
        self.each_batch(images, |run, batch, rows| {
            total.add(&run.step(centers, batch, rows)?);
            Ok(())
        })?;
        Ok(total)
    }

    /// Returns the inertia whose sum over the patches of `images` images is `sum`.
    pub fn inertia(&self, sum: f64, images: usize, held_out: bool) -> Inertia {
        Inertia {
            per_patch: sum / (images * self.rows.patches()) as f64,
            images,
            held_out,
        }
    }

    /// Calls `work` with every batch of `images` and its rows.
    pub fn each_batch(
        &mut self,
        images: &[usize],
        mut work: impl FnMut(&mut Self, &[usize], &Batch) -> Result<()>,
    ) -> Result<()> {
        for batch in images.chunks(self.fields.batch) {
            self.check_interrupted()?;
            let rows = self.batch(batch)?;
            work(self, batch, &rows)?;
            self.recycle(rows);
        }
        Ok(())
    }

    /// Returns [`Error::Interrupted`] if the run was interrupted. Called between batches.
    pub fn check_interrupted(&self) -> Result<()> {
        match (self.cx.interrupted)() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Reports `done` of `total` units of this start and the inertia per patch.
    pub fn report(&self, done: usize, total: usize, unit: &str, inertia: f64) {
        let before = self.restart * total;
        let note = format!("{unit}, inertia {inertia:.5} per patch");
        (self.cx.progress)(before + done, self.fields.restarts * total, &note);
    }

    /// Reports the inertia of the codebook.
    pub fn report_result(&self, codebook: &Codebook) {
        if let Some(inertia) = &codebook.inertia {
            (self.cx.progress)(1, 1, &format!("fit, {inertia}"));
        }
    }
}

/// Returns the number of patches among which the first centres are chosen.
pub fn seed_rows(fields: &Fields) -> usize {
    match fields.init {
        Init::Parallel => PARALLEL_SEED_ROWS.max(32 * fields.k),
        Init::PlusPlus | Init::Random => SEED_ROWS.max(3 * fields.k),
    }
}

/// Returns an error that names the image and the patch of a row of `images`.
fn not_finite(found: NotFinite, images: &[usize], patches: usize) -> Error {
    Error::Fit(format!(
        "k-means: train image {}, patch {}: a feature is not finite or too large for products in f32, expected finite features; \
         check their input scaling and the encoder",
        images[found.row / patches],
        found.row % patches
    ))
}

/// Not reached from a suite, because [`Fields::checked`] refuses linfa first.
#[cfg(not(feature = "linfa"))]
pub fn without_linfa() -> Error {
    Error::Fit("this program was built without linfa; use `engine: gemm`".into())
}
