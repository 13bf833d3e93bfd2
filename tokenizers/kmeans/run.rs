//! One fit under way: its images, the rows of their features where steps are made of them, and its random numbers.

use rand::RngCore;
use rand::seq::{SliceRandom, index};
use tessera_models::rng::{ChaCha8Rng, keyed_rng};

use super::codebook::Codebook;
use super::device::{OnDevice, Placed};
use super::fields::{Algorithm, Engine, Fields, Init};
use super::nearest::NotFinite;
use super::rows::Rows;
use super::seeding;
use super::step::{self, Step, Stepper};
use crate::contract::{Features, ImageStream};
use crate::registry::BuildContext;
use crate::{Error, Result};

/// Patches that k-means++ looks at, at least (scikit-learn: three times the batch).
const SEED_ROWS: usize = 4096;
/// Patches that k-means|| looks at, at least.
const PARALLEL_SEED_ROWS: usize = 65_536;

/// One fit, start after start.
pub struct Run<'a> {
    /// The features of the images.
    pub rows: Rows<'a>,
    /// Numbers of a feature.
    pub dim: usize,
    /// Images that the fit sees.
    pub seen: Vec<usize>,
    /// The fields of the suite.
    pub fields: &'a Fields,
    seed: u64,
    /// Which start this is, from 0.
    pub restart: usize,
    stepper: Stepper,
    there: Option<OnDevice<'a>>,
    cx: &'a BuildContext<'a>,
}

/// Rows of a batch of images, where steps are made of them.
pub enum Batch {
    /// In this program's memory, `[n, dim]`.
    Here(Vec<f32>),
    /// On a device.
    There(Placed),
}

impl Batch {
    /// How many rows of `dim` numbers.
    pub fn count(&self, dim: usize) -> usize {
        match self {
            Self::Here(rows) => rows.len() / dim,
            Self::There(rows) => rows.count(),
        }
    }

    /// A row of `dim` numbers.
    ///
    /// # Errors
    /// What the device says.
    pub fn row(&self, at: usize, dim: usize) -> Result<Vec<f32>> {
        match self {
            Self::Here(rows) => Ok(rows[at * dim..(at + 1) * dim].to_vec()),
            Self::There(rows) => rows.row(at),
        }
    }
}

impl<'a> Run<'a> {
    /// Over the images `seen`.
    pub fn new(
        features: &'a dyn Features,
        images: &'a dyn ImageStream,
        seen: Vec<usize>,
        fields: &'a Fields,
        seed: u64,
        cx: &'a BuildContext<'a>,
    ) -> Self {
        let again = fields.epochs > 1 || fields.restarts > 1;
        let again = again || fields.algorithm == Algorithm::Lloyd;
        let device = cx.device.filter(|_| fields.engine == Engine::Gemm);
        let there = device.map(|device| OnDevice::new(device, features, images, again));
        let kept_there = there.as_ref().is_some_and(OnDevice::keeps);
        Self {
            rows: Rows::new(features, images, again && !kept_there),
            dim: features.dim(),
            seen,
            fields,
            seed,
            restart: 0,
            stepper: Stepper::new(),
            there,
            cx,
        }
    }

    /// The generator of one use; the first start draws what a single one draws.
    pub fn rng(&self, stage: &str, epoch: usize, at: usize) -> ChaCha8Rng {
        let seed = match self.restart {
            0 => self.seed,
            restart => keyed_rng(self.seed, "kmeans-restart", 0, restart as u64).next_u64(),
        };
        keyed_rng(seed, stage, epoch as u64, at as u64)
    }

    /// The images of one epoch.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order = self.seen.clone();
        if self.fields.shuffle {
            order.shuffle(&mut self.rng("kmeans-order", epoch, 0));
        }
        order
    }

    /// First centres, over random patches of the first images of the first epoch.
    pub fn first_centers(&mut self) -> Result<Vec<f32>> {
        let k = self.fields.k;
        let wanted = match self.fields.init {
            Init::Parallel => PARALLEL_SEED_ROWS.max(32 * k),
            Init::PlusPlus | Init::Random => SEED_ROWS.max(3 * k),
        };
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

    /// The rows of `images`, where steps are made of them.
    pub fn batch(&mut self, images: &[usize]) -> Result<Batch> {
        match &mut self.there {
            Some(there) => Ok(Batch::There(there.get(&mut self.rows, images)?)),
            None => Ok(Batch::Here(self.rows.get(images)?)),
        }
    }

    /// Takes back what is no longer needed.
    pub fn give_back(&mut self, batch: Batch) {
        if let Batch::Here(rows) = batch {
            self.rows.give_back(rows);
        }
    }

    /// One assignment of the rows of `images`.
    pub fn step(&mut self, centers: &[f32], images: &[usize], rows: &Batch) -> Result<Step> {
        let patches = self.rows.patches();
        let found = match rows {
            Batch::Here(rows) => self.stepper.step(rows, self.dim, centers),
            Batch::There(rows) => rows.step(centers)?,
        };
        found.map_err(|found| not_finite(found, images, patches))
    }

    /// The farthest rows of the rows of `images`, as [`step::farthest`].
    pub fn farthest(
        &self,
        centers: &[f32],
        images: &[usize],
        rows: &Batch,
    ) -> Result<Vec<(f32, usize)>> {
        let found = match rows {
            Batch::Here(rows) => step::farthest(rows, self.dim, centers),
            Batch::There(rows) => rows.farthest(centers)?,
        };
        found.map_err(|found| not_finite(found, images, self.rows.patches()))
    }

    /// One assignment of all rows of `images`, a batch of images in memory at a time.
    pub fn pass(&mut self, centers: &[f32], images: &[usize]) -> Result<Step> {
        let mut total = Step::nothing(centers.len() / self.dim, self.dim);
        self.each_batch(images, |run, batch, rows| {
            total.add(&run.step(centers, batch, rows)?);
            Ok(())
        })?;
        Ok(total)
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
            self.give_back(rows);
        }
        Ok(())
    }

    /// Asked between batches.
    pub fn check_interrupted(&self) -> Result<()> {
        match (self.cx.interrupted)() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Tells of `done` out of `total` units of this start, with the inertia of one patch.
    pub fn say(&self, done: usize, total: usize, unit: &str, inertia: f64) {
        let before = self.restart * total;
        let note = format!("{unit}, inertia {inertia:.5} per patch");
        (self.cx.progress)(before + done, self.fields.restarts * total, &note);
    }

    /// Tells of the inertia of the codebook.
    pub fn say_result(&self, codebook: &Codebook) {
        if let Some(inertia) = &codebook.inertia {
            (self.cx.progress)(1, 1, &format!("fit, {inertia}"));
        }
    }
}

/// Names the image and the patch of a row of `images`.
fn not_finite(found: NotFinite, images: &[usize], patches: usize) -> Error {
    Error::Fit(format!(
        "k-means: train image {}, patch {}: a feature is not a finite number, or too large for products in f32; \
         expected finite features: check their input scaling and the encoder",
        images[found.row / patches],
        found.row % patches
    ))
}

/// Fields refuse it before.
#[cfg(not(feature = "linfa"))]
pub fn without_linfa() -> Error {
    Error::Fit("this program was built without linfa; use `engine: gemm`".into())
}
