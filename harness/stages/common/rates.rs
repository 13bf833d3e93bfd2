//! Rates of this machine, measured with the code of the stages, from which stages estimate their cost.
//!
//! A step of pretraining, decoding, rendering and each row's tokenizer are measured. Fine-tuning and encoding are estimated from the
//! operations of their matrix products. The time of metrics and galleries is not estimated and counts as zero.

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

/// Cost of a stage or a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Wall-clock seconds on this machine, without other load.
    pub seconds: f64,
    /// Peak resident bytes.
    pub memory: f64,
    /// Bytes added to the store and the run folder.
    pub disk: f64,
}

impl Cost {
    /// Returns the cost of a stage whose time is not estimated.
    pub fn of_memory(memory: f64) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

    /// Returns the cost of `self` followed by `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            memory: self.memory.max(next.memory),
            disk: self.disk + next.disk,
        }
    }
}

/// Number of images that are decoded, rendered and tokenized for a measurement.
const SAMPLE: usize = 64;
/// Bytes of the program, its threads' stacks and its libraries.
pub const BASE: f64 = 48e6;
/// Maximum bytes of decoded images in memory during training.
const DECODED: f64 = 512e6;
/// Images of a timed step on a device: enough to fill it.
const DEVICE_BATCH: usize = 256;
/// Reciprocal of the fraction of free memory that pinned pixels may use.
const PINNED_SHARE: u64 = 2;

/// Rates of this machine for a suite. Seconds are per image, on all threads.
pub struct Rates<'a> {
    /// The run.
    pub cx: &'a Context<'a>,
    /// The images.
    pub images: &'a Images,
    /// The suite's model.
    pub vit: VitConfig,
    /// Seconds of decoding; 0 if decoded images are stored.
    pub decode: f64,
    /// Seconds of decoding for the decoded cache.
    pub decode_whole: f64,
    /// Seconds of rendering a crop of a decoded image.
    pub render: f64,
    /// Floating-point operations per second of a pretraining step.
    pub flops: f64,
    /// Measured seconds of decoding.
    measured: f64,
    /// Whether the decoded train split fits in the memory of training.
    resident: bool,
    /// Seconds of measured tokenizers, by row.
    tokenizers: RefCell<HashMap<String, f64>>,
    /// Rows for which [`Rates::is_first`] was called.
    known: RefCell<HashSet<String>>,
}

impl<'a> Rates<'a> {
    /// Measures a few steps of the model (of a small one unless something `trains`) and a few images.
    ///
    /// # Errors
    /// If an image or a model cannot be used.
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
        // The cost of the decoded cache is that of writing it. Reads from disk are not estimated.
        rates.decode = if cached { 0.0 } else { rates.measured };
        let both = rates.per_image(&|view| {
            view.as_view()
                .render(&InputSpec::imagenet(vit.image_size))?;
            Ok(())
        })?;
        rates.render = (both - rates.measured).max(0.0);
        Ok(rates)
    }

    /// Measures the seconds per image, on all threads, of computing the view of a random crop and calling `work`.
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

    /// Returns the seconds per image of `row`'s tokenizer, including rendering of its input, without decoding.
    pub fn tokenize(&self, row: &Row) -> f64 {
        if let Some(known) = self.tokenizers.borrow().get(&row.name) {
            return *known;
        }
        // A kind that learns without `features:` cannot be measured: at least the image is rendered.
        let seconds = self
            .measure(row)
            .map(|both| (both - self.measured).max(0.0));
        let seconds = seconds.unwrap_or(self.render);
        self.tokenizers
            .borrow_mut()
            .insert(row.name.clone(), seconds);
        seconds
    }

    /// Measures the row's tokenizer if it can be built, otherwise the features that it learns on.
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

    /// Returns the seconds of the matrix products of `images` images.
    pub fn seconds_of(&self, task: Task, images: f64) -> f64 {
        images * cost::flops(&cost::products(&self.vit, task, 1)) / self.flops
    }

    /// As [`seconds_of`](Self::seconds_of), for training. A checkpointed step runs the forward pass, a third of its operations, twice.
    pub fn training_seconds(&self, task: Task, images: f64, checkpointing: bool) -> f64 {
        let again = if checkpointing { 4.0 / 3.0 } else { 1.0 };
        again * self.seconds_of(task, images)
    }

    /// Returns the seconds of decoding the train split for `passes` passes of training.
    pub fn decoding(&self, passes: f64) -> f64 {
        let passes = if self.resident { 1.0 } else { passes };
        self.counts()[0] * passes * self.decode
    }

    /// Returns the number of images of the train and the validation split.
    pub fn counts(&self) -> [f64; 2] {
        self.images.counts().map(|count| count as f64)
    }

    /// Returns the plan of the row's tokenizer.
    pub fn plan(&self, row: &Row) -> Option<Plan> {
        self.cx.row_plan(row, Some(self.images.counts()))
    }

    /// Returns whether this is the first call for `row`, whose stage pays for what all its stages share.
    pub fn is_first(&self, row: &str) -> bool {
        self.known.borrow_mut().insert(row.to_owned())
    }

    /// Returns the bytes of training: parameters, both moments, the sum of gradients and one waiting gradient per thread; activations
    /// and their gradients of a shard per thread; prepared shards with `targets` numbers per image; decoded images.
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

/// Measures the floating-point operations per second of a pretraining step.
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

/// Measures the seconds per image of decoding, on all threads.
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

/// Estimates the bytes of the decoded train split from a few images.
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

/// Returns the number of visible patches at a mask ratio.
pub fn visible_patches(vit: &VitConfig, mask_ratio: f64) -> usize {
    Mask::draw(0, 0, 0, vit.num_patches(), mask_ratio).num_kept
}

/// Returns whether pixels are copied into page-locked memory: if there is a device and they need at most half of the free memory.
pub fn pins(cx: &Context<'_>, bytes: u64) -> bool {
    cx.launcher.is_some() && available_memory().is_some_and(|free| bytes <= free / PINNED_SHARE)
}

/// Returns the bytes of memory that are available without swapping; `None` if the system does not report it.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
