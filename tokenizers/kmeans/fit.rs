//! A fit: which images it sees, one or several starts, the best of them, and its inertia on images set aside.

use rand::RngCore;
use rand::seq::{SliceRandom, index};
use tessera_models::rng::{ChaCha8Rng, keyed_rng};

use super::codebook::{Codebook, Inertia};
use super::device::{OnDevice, Placed};
use super::fields::{Algorithm, Engine, Fields, Init};
use super::nearest::NotFinite;
use super::rows::{self, Rows};
use super::step::{self, Step, Stepper};
use super::{lloyd, mini_batch, seeding};
use crate::contract::{BuildContext, Features, FitCost, ImageStream};
use crate::{Error, Result};

/// Raised when the same input gives other centres.
pub const VERSION: u32 = 3;
/// Patches that k-means++ looks at, at least (scikit-learn: three times the batch).
const SEED_ROWS: usize = 4096;
/// Patches that k-means|| looks at, at least.
const PARALLEL_SEED_ROWS: usize = 65_536;
/// Images the inertia is measured on where none are held out.
const MEASURED_IMAGES: usize = 64;

/// The centres of `images`' features.
///
/// # Errors
/// [`Error::Fit`] when there are no images or a feature is not finite, [`Error::Interrupted`], and whatever reading and
/// extracting give.
pub fn fit(
    features: &dyn Features,
    images: &dyn ImageStream,
    fields: &Fields,
    seed: u64,
    cx: &BuildContext<'_>,
) -> Result<Codebook> {
    if images.is_empty() {
        let message = "k-means saw no images; the train split is empty";
        return Err(Error::Fit(message.into()));
    }
    let (seen, measured) = split(images.len(), fields.held_out, seed);
    let mut run = Run::new(features, images, seen, fields, seed, cx);
    let mut codebook = run.best()?;
    let found = run.pass(&codebook.centers, &measured)?;
    codebook.inertia = Some(Inertia {
        per_patch: found.inertia / (measured.len() * run.rows.patches()) as f64,
        images: measured.len(),
        held_out: fields.held_out > 0,
    });
    run.say_result(&codebook);
    Ok(codebook)
}

/// The cost of [`fit`] over features of `dim` numbers per patch: one assignment of every patch per pass, and the features again
/// in every pass where they are too large to be kept.
pub fn cost(dim: usize, fields: &Fields, cx: &BuildContext<'_>) -> FitCost {
    let (images, patches) = (cx.num_train(), cx.grid.num_patches());
    // Several starts are compared by one more pass each.
    let passes = fields.restarts * (fields.epochs + usize::from(fields.restarts > 1));
    let kept = rows::fit_in_cache(images, patches * dim);
    let assigned = (passes * images * patches) as f64;
    FitCost {
        images: (images * if kept { 1 } else { passes }) as f64,
        flops: 2.0 * assigned * (fields.k * dim) as f64,
    }
}

/// Images that are fitted, in order, and those the inertia is measured on.
pub fn split(images: usize, held_out: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let count = match held_out {
        0 => MEASURED_IMAGES.min(images),
        held_out => held_out,
    };
    let mut rng = keyed_rng(seed, "kmeans-held-out", 0, 0);
    let mut measured = index::sample(&mut rng, images, count).into_vec();
    measured.sort_unstable();
    let fitted = |image: &usize| held_out == 0 || measured.binary_search(image).is_err();
    ((0..images).filter(fitted).collect(), measured)
}

/// One fit, start after start.
pub struct Run<'a> {
    pub rows: Rows<'a>,
    pub dim: usize,
    /// Images that the fit sees.
    pub seen: Vec<usize>,
    pub fields: &'a Fields,
    seed: u64,
    restart: usize,
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

    /// The codebook with the smallest inertia of all starts; a start's numbers are its own.
    fn best(&mut self) -> Result<Codebook> {
        let mut best: Option<(f64, Codebook)> = None;
        for restart in 0..self.fields.restarts {
            self.restart = restart;
            let codebook = match (self.fields.algorithm, self.fields.engine) {
                (Algorithm::MiniBatch, _) => mini_batch::fit(self)?,
                (Algorithm::Lloyd, Engine::Gemm) => lloyd::fit(self)?,
                #[cfg(feature = "linfa")]
                (Algorithm::Lloyd, Engine::Linfa) => super::linfa::lloyd(self)?,
                #[cfg(not(feature = "linfa"))]
                (Algorithm::Lloyd, Engine::Linfa) => return Err(without_linfa()),
            };
            if self.fields.restarts == 1 {
                return Ok(codebook);
            }
            let seen = self.seen.clone();
            let inertia = self.pass(&codebook.centers, &seen)?.inertia;
            if best.as_ref().is_none_or(|(least, _)| inertia < *least) {
                best = Some((inertia, codebook));
            }
        }
        let none = || Error::Fit("k-means was asked for no start".into());
        best.map(|(_, codebook)| codebook).ok_or_else(none)
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

    fn say_result(&self, codebook: &Codebook) {
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
