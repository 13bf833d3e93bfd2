//! What a run will cost before it runs: time, memory and disk of every stage that is not stored, from rates measured on this
//! machine with the code that the stages run.
//!
//! Measured: a step of pretraining, rendering, each row's tokenizer. Reckoned from these: fine-tuning and encoding, by the
//! operations of their matrix products. Not reckoned, and shown as no time: metrics and gallery.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use rayon::prelude::*;
use tessera_models::TargetSpec;
use tessera_models::ahead::most;
use tessera_models::cost::{self, Task};
use tessera_models::pretrain::Mask;
use tessera_models::vit::VitConfig;
use tessera_tokenizers::{FitCost, InputSpec, Plan, Split, ViewBuf};

use super::context::{Context, Images};
use super::stages::pretrain::model;
use super::stages::{decoded, tokens};
use super::{Depth, Planned};
use crate::data::{self, CropForm, ViewPlan};
use crate::speed;
use crate::suite::{Pretrain, Row};

/// What a stage or a cell costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Wall-clock seconds on this machine, alone.
    pub seconds: f64,
    /// Bytes resident at the peak.
    pub memory: f64,
    /// Bytes left in the store and the run folder.
    pub disk: f64,
}

impl Cost {
    /// One after the other.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            memory: self.memory.max(next.memory),
            disk: self.disk + next.disk,
        }
    }
}

/// Images that are rendered and tokenized to measure, and images of a measured step per thread.
const SAMPLE: usize = 64;
/// Bytes of the program, its threads' stacks and what its libraries keep.
const BASE: f64 = 48e6;
/// Bytes of decoded images that training keeps.
const DECODED: f64 = 512e6;

/// Rates of this machine for a suite.
pub struct Estimator<'a> {
    cx: &'a Context<'a>,
    images: &'a Images,
    vit: VitConfig,
    /// Seconds per image on all threads: decoding as stages will see it and as it was measured, and rendering a crop of what
    /// is decoded.
    decode: f64,
    measured: f64,
    render: f64,
    /// Whether training keeps the whole train split decoded.
    kept: bool,
    /// Floating point operations per second of a pretraining step on all threads.
    rate: f64,
    /// Seconds per image on all threads of tokenizers already measured, by their row.
    tokenizers: RefCell<HashMap<String, f64>>,
    /// Rows whose kept ids are paid for.
    kept_ids: RefCell<HashSet<String>>,
}

/// Images of a timed step on a device: enough to fill it.
const DEVICE_BATCH: usize = 256;

impl<'a> Estimator<'a> {
    /// Measures: a few steps of the model (of a small one where nothing trains), and a few images.
    ///
    /// # Errors
    /// When an image or a model cannot be used.
    pub fn new(cx: &'a Context<'a>, images: &'a Images, depth: Depth) -> anyhow::Result<Self> {
        let vit = model(cx)?;
        let small = tessera_models::vit::preset("nano").unwrap_or(vit.preset);
        let timed = match depth {
            Depth::All => vit,
            Depth::Score => VitConfig {
                preset: small,
                ..vit
            },
        };
        let task = Task::Pretrain {
            kept: kept(&timed, 0.75),
            head: 50,
        };
        let target = TargetSpec::Ids { codebook_size: 50 };
        let batch = match cx.compute.images_at_once(&timed, task) {
            Some(most) => most.min(DEVICE_BATCH),
            None => timed.shard() * cx.threads.max(1),
        };
        let stop = cx.stop;
        let stop = || stop.load(std::sync::atomic::Ordering::Relaxed);
        let seconds =
            speed::pretrain::step_seconds(&timed, target, 0.75, (batch, 3), &cx.compute, &stop)?;
        let per_image = cost::flops(&cost::products(&timed, task, 1));
        let mut estimator = Self {
            cx,
            images,
            vit,
            decode: 0.0,
            measured: 0.0,
            render: 0.0,
            kept: decoded_bytes(images)? <= DECODED,
            rate: per_image * batch as f64 / seconds,
            tokenizers: RefCell::default(),
            kept_ids: RefCell::default(),
        };
        estimator.measured = estimator.per_image(&|_| Ok(()))?;
        // The row of the decoded cache has the time of making it; reading it from a disk that the system's cache does not
        // cover is not reckoned.
        estimator.decode = match decoded::wanted(cx, images) {
            Some(_) => 0.0,
            None => estimator.measured,
        };
        let both = estimator.per_image(&|view| {
            view.as_view()
                .render(&InputSpec::imagenet(vit.image_size))?;
            Ok(())
        })?;
        estimator.render = (both - estimator.measured).max(0.0);
        Ok(estimator)
    }

    /// Seconds per image on all threads of making a random crop's view and working on it.
    fn per_image(
        &self,
        work: &(dyn Fn(&ViewBuf) -> anyhow::Result<()> + Sync),
    ) -> anyhow::Result<f64> {
        let count = SAMPLE.min(self.images.dataset.len(Split::Train));
        let plan = ViewPlan::RandomResizedCrop {
            seed: 0,
            epoch: 0,
            scale: (0.2, 1.0),
            form: CropForm::Torchvision,
        };
        let eval = self.cx.suite.file.eval_transform;
        let all: Vec<usize> = (0..count).collect();
        let pass = || {
            let shards = all
                .par_chunks(16)
                .map(|shard| work(&self.images.dataset.view(Split::Train, shard, plan, eval)?));
            shards.collect::<anyhow::Result<()>>()
        };
        // The first pass opens sessions and fills caches.
        pass()?;
        let start = Instant::now();
        pass()?;
        Ok(start.elapsed().as_secs_f64() / count.max(1) as f64)
    }

    /// Seconds per image of `row`'s tokenizer, which renders its own input from what is decoded.
    fn tokenize(&self, row: &Row) -> f64 {
        if let Some(known) = self.tokenizers.borrow().get(&row.name) {
            return *known;
        }
        // A kind from elsewhere that learns on something of its own: no less than looking at the image.
        let seconds = self
            .measure(row)
            .map(|both| (both - self.measured).max(0.0));
        let seconds = seconds.unwrap_or(self.render);
        self.tokenizers
            .borrow_mut()
            .insert(row.name.clone(), seconds);
        seconds
    }

    /// The row's tokenizer where it can be built, else the features it learns on.
    fn measure(&self, row: &Row) -> anyhow::Result<f64> {
        let Some((kind, with)) = &row.tokenizer else {
            return Ok(0.0);
        };
        let factory = self.cx.registry.tokenizer(kind, with)?;
        let features = self
            .cx
            .with_build(None, |build| factory.features(with, build))?;
        if let Some(features) = features.filter(|_| factory.learns()) {
            return self.per_image(&|view| Ok(features.extract(&view.as_view()).map(drop)?));
        }
        let tokenizer = self
            .cx
            .with_build(None, |build| factory.build(with, build))?;
        self.per_image(&|view| Ok(tokenizer.tokenize(&view.as_view()).map(drop)?))
    }

    fn seconds_of(&self, task: Task, images: f64) -> f64 {
        images * cost::flops(&cost::products(&self.vit, task, 1)) / self.rate
    }

    /// Seconds of decoding the train split for so many passes of training.
    fn decoding(&self, passes: f64) -> f64 {
        let passes = if self.kept { 1.0 } else { passes };
        self.counts()[0] * passes * self.decode
    }

    fn counts(&self) -> [f64; 2] {
        [Split::Train, Split::Val].map(|split| self.images.dataset.len(split) as f64)
    }

    fn plan(&self, row: &Row) -> Option<Plan> {
        let images = [Split::Train, Split::Val].map(|split| self.images.dataset.len(split));
        self.cx.row_plan(row, Some(images))
    }

    /// The cost of a stage of `row`, by the stage's name.
    pub fn stage(&self, row: &Row, stage: &str) -> Cost {
        let [train, val] = self.counts();
        let memory = BASE;
        let patches = self.vit.num_patches() as f64;
        match stage {
            "fit" => Cost {
                seconds: self.fit_seconds(row),
                memory,
                disk: 0.0,
            },
            "count" => Cost {
                seconds: train * (self.decode + self.tokenize(row)),
                memory,
                // A row of images.npy is three numbers for each token of an image, at most.
                disk: train * (patches * 12.0 + 4.0),
            },
            "pretrain" => row
                .recipes
                .pretrain
                .as_ref()
                .map_or(Cost::default(), |p| self.pretrain(row, p)),
            "knn" => Cost {
                seconds: (train + val) * (self.decode + self.render)
                    + self.seconds_of(Task::Encode, train + val)
                    + 2.0 * train * val * self.vit.preset.width as f64 / self.rate,
                memory: memory + 8.0 * (train + val) * self.vit.preset.width as f64,
                disk: 0.0,
            },
            "probe" => self.probe(row),
            "finetune" => self.finetune(row),
            _ => Cost {
                memory,
                ..Cost::default()
            },
        }
    }

    fn fit_seconds(&self, row: &Row) -> f64 {
        let cost = self.plan(row).and_then(|plan| plan.fit);
        cost.map_or(0.0, |FitCost { images, flops }| {
            images * (self.decode + self.tokenize(row)) + flops / self.rate
        })
    }

    /// Values, both moments, the sum and what waits of every thread; activations of a shard per thread, and as much again for
    /// their gradients; shards that loaders have made, with so many numbers of target per image; decoded images.
    fn training_memory(
        &self,
        task: Task,
        (batch, targets): (usize, usize),
        checkpointing: bool,
    ) -> f64 {
        let threads = self.cx.threads.max(1);
        let parameters = 4.0 * cost::parameters(&self.vit, task) as f64;
        let shard = cost::activation_bytes(&self.vit, task, self.vit.shard(), checkpointing);
        let shard = shard as f64;
        let on_device = !self.cx.compute.device().is_cpu();
        let at_once = if on_device {
            batch.div_ceil(self.vit.shard())
        } else {
            0
        };
        let waiting = most(self.cx.workers, at_once);
        let decoded = match decoded::wanted(self.cx, self.images) {
            Some(bytes) if decoded::pins(self.cx, bytes) => bytes as f64,
            Some(bytes) => (bytes as f64).min(data::RESIDENT as f64),
            None => {
                let pixels = self.vit.image_size * self.vit.image_size * 3;
                (self.images.dataset.len(Split::Train) as f64 * pixels as f64).min(DECODED)
            }
        };
        BASE + parameters * (4 + threads) as f64
            + 1.5 * shard * threads as f64
            + (waiting * cost::prepared_bytes(&self.vit, targets)) as f64
            + decoded
    }

    fn pretrain(&self, row: &Row, recipe: &Pretrain) -> Cost {
        // A number of codes that only learning tells is not reckoned.
        let target = self.plan(row).and_then(|plan| plan.target);
        let target = target.unwrap_or(TargetSpec::Ids { codebook_size: 0 });
        let task = Task::Pretrain {
            kept: kept(&self.vit, recipe.mask_ratio),
            head: target.head_width(),
        };
        let numbers = match target {
            TargetSpec::Ids { .. } => 1,
            TargetSpec::Values { dim } => dim,
        };
        let targets = self.vit.num_patches() * numbers;
        let images = self.counts()[0] * recipe.epochs as f64;
        let (tokenized, ids) = self.tokenized(row, recipe);
        let encoder = cost::parameters(&self.vit, Task::Encode) as f64;
        Cost {
            seconds: self.decoding(recipe.epochs as f64)
                + images * self.render
                + tokenized * self.tokenize(row)
                + again(recipe.gradient_checkpointing) * self.seconds_of(task, images),
            memory: self.training_memory(
                task,
                (recipe.batch, targets),
                recipe.gradient_checkpointing,
            ),
            disk: 2.0 * 4.0 * (cost::parameters(&self.vit, task) as f64 + encoder) + ids,
        }
    }

    /// Images that pretraining tokenizes, at most, and bytes of the ids it keeps: every image both ways round where ids are
    /// kept, once for all seeds.
    fn tokenized(&self, row: &Row, recipe: &Pretrain) -> (f64, f64) {
        let train = self.counts()[0];
        if !self.keeps_ids(row, recipe) {
            return (train * recipe.epochs as f64, 0.0);
        }
        if !self.kept_ids.borrow_mut().insert(row.name.clone()) {
            return (0.0, 0.0);
        }
        let bytes = tokens::bytes(train as usize, self.vit.num_patches());
        (2.0 * train, 2.0 * bytes as f64)
    }

    /// Whether the ids of the row's tokenizer are kept.
    fn keeps_ids(&self, row: &Row, recipe: &Pretrain) -> bool {
        let plan = self.plan(row);
        plan.is_some_and(|plan| plan.gives_ids() && tokens::keep_ids(recipe) && !plan.looks_up)
    }

    fn probe(&self, row: &Row) -> Cost {
        let Some(recipe) = &row.recipes.linear_probe else {
            return Cost::default();
        };
        let [train, _] = self.counts();
        let (epochs, width) = (recipe.epochs as f64, self.vit.preset.width as f64);
        let classes = self.images.scan.classes.len() as f64;
        let mut seconds = epochs * train * 6.0 * width * classes / self.rate;
        if recipe.augment != crate::suite::Augment::None {
            seconds += self.decoding(epochs)
                + epochs * train * self.render
                + self.seconds_of(Task::Encode, epochs * train);
        } else if row.recipes.knn.is_none() {
            // With k-NN, its encodings are there already.
            seconds += train * (self.decode + self.render) + self.seconds_of(Task::Encode, train);
        }
        Cost {
            seconds,
            memory: BASE + 8.0 * train * width,
            disk: 2.0 * 4.0 * width * classes,
        }
    }

    fn finetune(&self, row: &Row) -> Cost {
        let Some(recipe) = &row.recipes.fine_tune else {
            return Cost::default();
        };
        let classes = self.images.scan.classes.len();
        let task = Task::FineTune { classes };
        let [train, val] = self.counts();
        let images = train * recipe.epochs as f64;
        Cost {
            seconds: self.decoding(recipe.epochs as f64)
                + val * self.decode
                + (images + val) * self.render
                + again(recipe.gradient_checkpointing) * self.seconds_of(task, images)
                + self.seconds_of(Task::Encode, val),
            memory: self.training_memory(
                task,
                (recipe.batch, classes),
                recipe.gradient_checkpointing,
            ),
            disk: 2.0 * 4.0 * cost::parameters(&self.vit, task) as f64,
        }
    }
}

/// What the decoded cache of a suite that wants one costs; nothing of one that is there.
///
/// # Errors
/// When the disk has no room, or an image no longer decodes.
pub fn decoded_row(cx: &Context<'_>, images: &Images) -> anyhow::Result<Option<Planned>> {
    let Some(bytes) = decoded::wanted(cx, images) else {
        return Ok(None);
    };
    let cost = if decoded::is_stored(cx, images) {
        // Rates are then measured on it.
        decoded::attach(cx, images)?;
        None
    } else {
        decoded::check_room(cx.store.root(), bytes)?;
        Some(Cost {
            seconds: decoding(images)?,
            memory: BASE,
            disk: bytes as f64,
        })
    };
    Ok(Some(Planned {
        name: "decoded_cache: u8".into(),
        skipped: None,
        stages: vec![(decoded::STAGE, cost)],
    }))
}

/// Seconds that decoding both splits takes on all threads, from a few images.
fn decoding(images: &Images) -> anyhow::Result<f64> {
    let [train, val] = [Split::Train, Split::Val].map(|split| images.dataset.len(split));
    let count = SAMPLE.min(train);
    let start = Instant::now();
    let all = (0..count).into_par_iter().map(|at| {
        images.dataset.image(Split::Train, at * train / count)?;
        Ok(())
    });
    all.collect::<anyhow::Result<()>>()?;
    Ok(start.elapsed().as_secs_f64() / count.max(1) as f64 * (train + val) as f64)
}

/// A checkpointed step runs the forward, a third of its operations, once more.
fn again(checkpointing: bool) -> f64 {
    if checkpointing { 4.0 / 3.0 } else { 1.0 }
}

/// Bytes of the decoded train split, from a few of its images.
fn decoded_bytes(images: &Images) -> anyhow::Result<f64> {
    let all = images.dataset.len(Split::Train);
    let sample = all.min(16);
    let bytes = (0..sample).map(|at| {
        Ok(images
            .dataset
            .image(Split::Train, at * all / sample)?
            .rgb
            .len())
    });
    let bytes: usize = bytes.sum::<anyhow::Result<usize>>()?;
    Ok(bytes as f64 * all as f64 / sample.max(1) as f64)
}

/// Patches that stay at a mask ratio.
fn kept(vit: &VitConfig, mask_ratio: f64) -> usize {
    Mask::draw(0, 0, 0, vit.num_patches(), mask_ratio).num_kept
}
