//! Rates of this machine, measured with the code that the stages run, from which stages estimate their cost.
//!
//! Measured: a step of pretraining, decoding, rendering, each row's tokenizer. Estimated from these: fine-tuning and encoding, by
//! the operations of their matrix products. Metrics and galleries are not estimated and count as no time.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rayon::prelude::*;
use tessera_models::TargetSpec;
use tessera_models::ahead::most;
use tessera_models::cost::{self, Task};
use tessera_models::pretrain::Mask;
use tessera_models::vit::{VitConfig, preset};
use tessera_tokenizers::{InputSpec, Plan, Split, ViewBuf};

use super::context::{Context, Images};
use crate::data::{self, CropForm, ViewPlan};
use crate::speed;
use crate::suite::Row;

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
    /// Of a stage whose time is not estimated.
    pub fn of_memory(memory: f64) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

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
/// Bytes of the program, its threads' stacks and what its libraries hold.
pub const BASE: f64 = 48e6;
/// Bytes of decoded images that training holds in memory.
const DECODED: f64 = 512e6;
/// Images of a timed step on a device: enough to fill it.
const DEVICE_BATCH: usize = 256;
/// Part of the free memory that pinned pixels may take: one over this.
const PINNED_SHARE: u64 = 2;

/// Rates of this machine for a suite. Seconds are per image, on all threads.
pub struct Rates<'a> {
    /// The run.
    pub cx: &'a Context<'a>,
    /// The images.
    pub images: &'a Images,
    /// The suite's model.
    pub vit: VitConfig,
    /// Seconds of decoding, where images are not stored decoded.
    pub decode: f64,
    /// Seconds of decoding for the decoded cache.
    pub decode_whole: f64,
    /// Seconds of rendering a crop of a decoded image.
    pub render: f64,
    /// Floating point operations per second of a pretraining step.
    pub flops: f64,
    /// Seconds of decoding as it was measured.
    measured: f64,
    /// Whether training holds the whole train split decoded.
    resident: bool,
    /// Seconds of tokenizers already measured, by their row.
    tokenizers: RefCell<HashMap<String, f64>>,
    /// Rows that [`Rates::is_first`] knows.
    known: RefCell<HashSet<String>>,
}

impl<'a> Rates<'a> {
    /// Measures: a few steps of the model (of a small one where nothing `trains`), and a few images.
    ///
    /// # Errors
    /// When an image or a model cannot be used.
    pub fn new(cx: &'a Context<'a>, images: &'a Images, trains: bool) -> anyhow::Result<Self> {
        let vit = cx.vit()?;
        let small = preset("nano").unwrap_or(vit.preset);
        let preset = if trains { vit.preset } else { small };
        let cached = images.cached_bytes(cx).is_some();
        let mut rates = Self {
            cx,
            images,
            vit,
            decode: 0.0,
            decode_whole: if cached { decoding(images)? } else { 0.0 },
            render: 0.0,
            flops: flops(cx, &VitConfig { preset, ..vit })?,
            measured: 0.0,
            resident: decoded_bytes(images)? <= DECODED,
            tokenizers: RefCell::default(),
            known: RefCell::default(),
        };
        rates.measured = rates.per_image(&|_| Ok(()))?;
        // The decoded cache has the time of making it; reading it from a disk that the system's cache does not cover is not
        // estimated.
        rates.decode = if cached { 0.0 } else { rates.measured };
        let both = rates.per_image(&|view| {
            view.as_view()
                .render(&InputSpec::imagenet(vit.image_size))?;
            Ok(())
        })?;
        rates.render = (both - rates.measured).max(0.0);
        Ok(rates)
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
    pub fn tokenize(&self, row: &Row) -> f64 {
        if let Some(known) = self.tokenizers.borrow().get(&row.name) {
            return *known;
        }
        // A kind from elsewhere that learns on something of its own: no less than rendering the image.
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

    /// Seconds of the matrix products of so many images.
    pub fn seconds_of(&self, task: Task, images: f64) -> f64 {
        images * cost::flops(&cost::products(&self.vit, task, 1)) / self.flops
    }

    /// The same in training: a checkpointed step runs the forward, a third of its operations, once more.
    pub fn training_seconds(&self, task: Task, images: f64, checkpointing: bool) -> f64 {
        let again = if checkpointing { 4.0 / 3.0 } else { 1.0 };
        again * self.seconds_of(task, images)
    }

    /// Seconds of decoding the train split for so many passes of training.
    pub fn decoding(&self, passes: f64) -> f64 {
        let passes = if self.resident { 1.0 } else { passes };
        self.counts()[0] * passes * self.decode
    }

    /// Images of the train and the validation split.
    pub fn counts(&self) -> [f64; 2] {
        self.images.counts().map(|count| count as f64)
    }

    /// What the row's tokenizer will give and cost.
    pub fn plan(&self, row: &Row) -> Option<Plan> {
        self.cx.row_plan(row, Some(self.images.counts()))
    }

    /// Whether this is the first call for `row`: the first of its stages pays for what they share.
    pub fn is_first(&self, row: &str) -> bool {
        self.known.borrow_mut().insert(row.to_owned())
    }

    /// Values, both moments, the sum and what waits of every thread; activations of a shard per thread, and as much again for
    /// their gradients; shards that loaders have prepared, with so many numbers of target per image; decoded images.
    pub fn training_memory(
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
        let decoded = match self.images.cached_bytes(self.cx) {
            Some(bytes) if pins(self.cx, bytes) => bytes as f64,
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
}

/// Floating point operations per second of a pretraining step.
fn flops(cx: &Context<'_>, vit: &VitConfig) -> anyhow::Result<f64> {
    let task = Task::Pretrain {
        kept: visible_patches(vit, 0.75),
        head: 50,
    };
    let target = TargetSpec::Ids { codebook_size: 50 };
    let batch = match cx.compute.images_at_once(vit, task) {
        Some(most) => most.min(DEVICE_BATCH),
        None => vit.shard() * cx.threads.max(1),
    };
    let stop = || cx.stop.load(Ordering::Relaxed);
    let timed = speed::pretrain::step_seconds(vit, target, 0.75, (batch, 3), &cx.compute, &stop);
    let per_image = cost::flops(&cost::products(vit, task, 1));
    Ok(per_image * batch as f64 / timed?)
}

/// Seconds per image of decoding, on all threads.
fn decoding(images: &Images) -> anyhow::Result<f64> {
    let train = images.dataset.len(Split::Train);
    let count = SAMPLE.min(train);
    let start = Instant::now();
    let all = (0..count).into_par_iter().map(|at| {
        images.dataset.image(Split::Train, at * train / count)?;
        Ok(())
    });
    all.collect::<anyhow::Result<()>>()?;
    Ok(start.elapsed().as_secs_f64() / count.max(1) as f64)
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
pub fn visible_patches(vit: &VitConfig, mask_ratio: f64) -> usize {
    Mask::draw(0, 0, 0, vit.num_patches(), mask_ratio).num_kept
}

/// Whether so many bytes of pixels are held in memory that a device reads by itself: where there is a device, and they leave the
/// greater part of the free memory to others.
pub fn pins(cx: &Context<'_>, bytes: u64) -> bool {
    cx.launcher.is_some() && available_memory().is_some_and(|free| bytes <= free / PINNED_SHARE)
}

/// Bytes of memory that the system can give without swapping; `None` where it does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
