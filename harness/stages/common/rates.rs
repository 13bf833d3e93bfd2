//! Rates of this machine, measured with the code of the stages, from which stages estimate their cost.
//!
//! A step of pretraining, decoding, rendering, each row's tokenizer and metrics are measured. Fine-tuning and encoding are estimated from
//! the operations of their matrix products.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tessera_kernels::product::has_bf16;
use tessera_models::ahead::most;
use tessera_models::cost::{self, Task};
use tessera_models::vit::{Layer, VitConfig, preset};
use tessera_models::{LOADED, TargetSpec};
use tessera_tokenizers::{InputSpec, Plan};

use super::context::{Context, Images};
use super::decoding::{self, HeldImages};
use super::limits::Limits;
use super::sample::{
    CROPS, SAMPLE, Sampled, Size, metrics_ratio, metrics_seconds, per_image, sample, sampled, shape,
};
use super::steps::flops;
use crate::data;
use crate::store::memory;
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

/// Bytes of the program, its threads' stacks and its libraries, if the system does not report them.
const BASE: f64 = 48e6;
/// Bytes of an entry besides the stage's files: provenance, and results and digests.
const RECORD: f64 = 1800.0;
/// Bytes of an epoch: in the entry, and in the cell's `history.csv` and TensorBoard events.
const EPOCH: f64 = 115.0 + 52.0 + 94.0;
/// Bytes that a cached image takes besides its pixels.
const CACHED: f64 = 200.0;
/// Bytes of the header of an `.npy` file.
pub const NPY: f64 = 128.0;

/// Rates of this machine for a suite. Seconds are per image, on all threads.
pub struct Rates<'a> {
    /// The run.
    pub cx: &'a Context<'a>,
    /// The images.
    pub images: &'a Images,
    /// The suite's model.
    pub vit: VitConfig,
    /// Whether this machine was measured.
    pub is_measured: bool,
    /// Seconds of decoding; 0 if decoded images are stored.
    pub decode: f64,
    /// Seconds of decoding for the decoded cache.
    pub decode_whole: f64,
    /// Seconds of rendering a crop of a decoded image.
    pub render: f64,
    /// Floating-point operations per second of a pretraining step.
    pub flops: f64,
    /// Measured seconds of decoding.
    decoded_seconds: f64,
    /// Resident bytes of the program before the measurements.
    base: f64,
    /// Bytes of all decoded images.
    decoded: f64,
    /// Decoded images that threads hold.
    pub held: HeldImages,
    /// Whether the run trains, so that decoded images stay in memory.
    trains: bool,
    /// Whether an estimate has included the only decoding of images that stay in memory.
    is_decoded: Cell<bool>,
    /// Measured tokenizers, by row.
    tokenizers: RefCell<HashMap<String, Sampled>>,
    /// Measured tokenizers, by their configuration without its numbers.
    alike: RefCell<HashMap<String, Sampled>>,
    /// Seconds of metrics, by ids per image and codes.
    metrics: RefCell<HashMap<(usize, usize), f64>>,
    /// Size and seconds of the metrics that were measured last.
    last_metrics: Cell<Option<(Size, f64)>>,
    /// Time that the measurements of rows may take. Later rows take the numbers of an earlier row that is configured alike.
    budget: Duration,
    /// Time that they have taken.
    spent: Cell<Duration>,
    /// Rows for which [`Rates::is_first`] was called.
    known: RefCell<HashSet<String>>,
    /// Plans of rows' tokenizers, by row: a plan may open a graph.
    plans: RefCell<HashMap<String, Option<Plan>>>,
    /// Work of the stages that train.
    pub limits: Limits,
}

impl<'a> Rates<'a> {
    /// Measures a few steps of the model (of a small one unless something `trains`) and a few images.
    ///
    /// # Errors
    /// If an image or a model cannot be used.
    pub fn new(cx: &'a Context<'a>, images: &'a Images, trains: bool) -> anyhow::Result<Self> {
        // Its memory is that before the measurements, which leave some behind.
        let mut rates = Self::unmeasured(cx, images, trains)?;
        let vit = rates.vit;
        let small = preset("nano").unwrap_or(vit.preset);
        let preset = if trains { vit.preset } else { small };
        let cached = images.cached_bytes(cx).is_some();
        rates.is_measured = true;
        if cached {
            rates.decode_whole = decoding::whole(images)?;
        }
        rates.flops = flops(cx, &VitConfig { preset, ..vit })?;
        rates.decoded = decoding::bytes(images)?;
        rates.held.keep(rates.decoded, cached, trains);
        (rates.decoded_seconds, rates.held.image) = decoding::for_views(cx, images)?;
        // The cost of the decoded cache is that of writing it. Reads from disk are not estimated.
        rates.decode = if cached { 0.0 } else { rates.decoded_seconds };
        let both = per_image(cx, images, CROPS, &|view| {
            view.as_view()
                .render(&InputSpec::imagenet(vit.image_size))?;
            Ok(())
        })?;
        rates.render = (both - rates.decoded_seconds).max(0.0);
        let decodes = !cached && !rates.keeps_images();
        rates.limits = Limits::new(rates.is_on_gpu(), decodes.then_some(rates.decoded));
        Ok(rates)
    }

    /// Returns rates without measurements: memory and disk follow from shapes, and seconds mean nothing.
    ///
    /// # Errors
    /// If the suite's model is unknown.
    pub fn unmeasured(
        cx: &'a Context<'a>,
        images: &'a Images,
        trains: bool,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            cx,
            images,
            vit: cx.vit()?,
            is_measured: false,
            decode: 0.0,
            decode_whole: 0.0,
            render: 0.0,
            flops: 1.0,
            decoded_seconds: 0.0,
            base: memory::resident().map_or(BASE, |bytes| bytes as f64),
            decoded: 0.0,
            held: HeldImages::by(cx.threads),
            trains,
            is_decoded: Cell::new(false),
            tokenizers: RefCell::default(),
            alike: RefCell::default(),
            metrics: RefCell::default(),
            last_metrics: Cell::default(),
            budget: Duration::MAX,
            spent: Cell::default(),
            known: RefCell::default(),
            plans: RefCell::default(),
            limits: Limits::default(),
        })
    }

    /// Limits the time that the measurements of rows take, for suites of hundreds of rows.
    #[must_use]
    pub fn within(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Calls `work` and adds the time that it takes to the measurements.
    fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let found = work();
        self.spent.set(self.spent.get() + start.elapsed());
        found
    }

    /// Returns the seconds per image of `row`'s tokenizer, including rendering of its input, without decoding.
    pub fn tokenize(&self, row: &Row) -> f64 {
        let found = self.sampled(row);
        match found.seconds > 0.0 {
            true => (found.seconds - self.decoded_seconds).max(0.0),
            // At least the image is rendered.
            false => self.render,
        }
    }

    /// Returns the measurement of `row`'s tokenizer.
    pub fn sampled(&self, row: &Row) -> Sampled {
        if let Some(known) = self.tokenizers.borrow().get(&row.name) {
            return known.clone();
        }
        let shape = shape(row);
        let known = self.alike.borrow().get(&shape).cloned();
        let known = known.filter(|_| self.spent.get() >= self.budget);
        let mut found = known.unwrap_or_else(|| self.timed(|| self.measured(row)));
        (self.alike.borrow_mut()).insert(shape, found.clone());
        let codes = || self.counted(row).into_iter().max();
        if let Some(codes) = self
            .codes(row)
            .or_else(codes)
            .filter(|_| found.tokens == 0.0)
        {
            // As if all codes were equally frequent.
            let (codes, patches) = (codes as f64, self.vit.num_patches() as f64);
            found.tokens = codes * (1.0 - (1.0 - 1.0 / codes.max(1.0)).powf(patches));
        }
        self.tokenizers
            .borrow_mut()
            .insert(row.name.clone(), found.clone());
        found
    }

    fn measured(&self, row: &Row) -> Sampled {
        if !self.is_measured {
            return Sampled::default();
        }
        let fit = self.plan(row).and_then(|plan| plan.fit);
        let flops = fit.map(|fit| fit.flops / self.counts()[0].max(1.0));
        sample(self.cx, self.images, row, flops).unwrap_or_else(|error| Sampled {
            guessed: Some(format!("{error:#}")),
            ..Sampled::default()
        })
    }

    /// Returns the rows whose tokenizers could not be measured, and why.
    pub fn guessed(&self) -> Vec<(String, String)> {
        let known = self.tokenizers.borrow();
        let guessed = known
            .iter()
            .filter_map(|(row, found)| Some((row.clone(), found.guessed.clone()?)));
        let mut guessed: Vec<_> = guessed.collect();
        guessed.sort();
        guessed
    }

    /// Returns the number of ids of `row`, if it has ids and the number is known.
    pub fn codes(&self, row: &Row) -> Option<usize> {
        self.plan(row)?.target?.codebook_size()
    }

    /// Returns the number of codes of each table that is counted: of the ids or of the joint code, if it fits, and of every group; 0 if it is
    /// unknown.
    pub fn counted(&self, row: &Row) -> Vec<usize> {
        let target = self.plan(row).and_then(|plan| plan.target);
        let groups = target.and_then(TargetSpec::groups);
        let sizes = groups.iter().flat_map(|groups| groups.sizes());
        let sizes = sizes.map(|size| *size as usize);
        match (self.codes(row), groups) {
            (None, None) => vec![0],
            (joint, _) => joint.into_iter().chain(sizes).collect(),
        }
    }

    /// Returns the seconds of the metrics of `row`.
    ///
    /// # Errors
    /// As for [`metrics_seconds`].
    pub fn metrics(&self, row: &Row) -> anyhow::Result<f64> {
        let counted = self.counted(row).into_iter();
        let counted = counted.filter(|_| self.is_measured);
        counted
            .map(|codes| self.metrics_of(row, codes.max(1)))
            .sum()
    }

    /// As [`metrics`](Self::metrics), of one table of `codes` codes.
    fn metrics_of(&self, row: &Row, codes: usize) -> anyhow::Result<f64> {
        let classes = self.images.scan.classes.len();
        let size = (self.sampled(row).tokens.round(), codes, classes);
        let key = (size.0 as usize, codes);
        if let Some(known) = self.metrics.borrow().get(&key) {
            return Ok(*known);
        }
        let images = self.images.counts()[0];
        let found = match self.last_metrics.get() {
            Some((last, seconds)) if self.spent.get() >= self.budget => {
                seconds * metrics_ratio(images, size, last)
            }
            _ => self.timed(|| metrics_seconds(self.cx, images, size))?,
        };
        self.last_metrics.set(Some((size, found)));
        self.metrics.borrow_mut().insert(key, found);
        Ok(found)
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

    /// Returns the seconds of decoding `images` images in all passes of a stage. Images that stay in memory are decoded once in a run.
    pub fn decoding(&self, images: f64) -> f64 {
        if !self.keeps_images() {
            return images * self.decode;
        }
        match self.is_decoded.replace(true) {
            true => 0.0,
            false => self.counts().iter().sum::<f64>() * self.decode,
        }
    }

    fn is_on_gpu(&self) -> bool {
        self.cx.compute.device().is_cuda()
    }

    /// Returns whether a run keeps all decoded images in memory.
    fn keeps_images(&self) -> bool {
        let cached = self.images.cached_bytes(self.cx).is_some();
        self.trains && !cached && self.decoded <= data::TRAINING_CACHE as f64
    }

    /// Returns the bytes of the program before a stage: its code and libraries, the scan, and decoded images.
    pub fn base(&self) -> f64 {
        let images = match self.images.cached_bytes(self.cx) {
            Some(bytes) => (bytes as f64).min(data::RESIDENT as f64),
            None if self.trains => {
                let all = self.counts().iter().sum::<f64>();
                let kept = self.decoded.min(data::TRAINING_CACHE as f64);
                kept + CACHED * all * kept / self.decoded.max(1.0)
            }
            None => 0.0,
        };
        self.base + images
    }

    /// Returns the bytes that `row`'s tokenizer takes besides [`base`](Self::base) and decoded images, measured on a few images. Fewer
    /// large images are measured than a run tokenizes at a time.
    pub fn tokenizer_memory(&self, row: &Row) -> f64 {
        let peak = self.sampled(row).memory;
        let sample = sampled(self.cx, self.images).len();
        let measured = peak.map_or(0.0, |peak| {
            (peak - self.base - self.held.by_sample(sample)).max(0.0)
        });
        match self.is_measured && sample == SAMPLE {
            true => measured,
            false => measured.max(self.views(row).unwrap_or(0.0)),
        }
    }

    /// Returns the bytes of the images that all threads render for the features of `row` at a time; `None` for a row without features, whose
    /// kind may render nothing.
    fn views(&self, row: &Row) -> Option<f64> {
        let (kind, with) = row.tokenizer.as_ref()?;
        with.get("features")?;
        let factory = self.cx.registry.tokenizer(kind, with).ok()?;
        let side = factory.render_side(with, self.cx.registry).ok()?;
        let side = side.unwrap_or(self.vit.image_size) as f64;
        let images = self.cx.threads.max(1) * data::targets::BATCH;
        Some(images.min(self.images.counts()[0]) as f64 * 12.0 * side * side)
    }

    /// Returns the bytes of a stage's entry with `stored` bytes of files, of which `shown` are also copied into each of `cells` cells.
    /// Copies count in full; a file system that copies on write needs less.
    pub fn disk(&self, stored: f64, shown: f64, cells: usize) -> f64 {
        RECORD + stored + shown * cells as f64
    }

    /// Returns the number of cells that show the files of a row's fit of index `fit`: all of the row's for the first.
    pub fn cells(&self, fit: usize) -> usize {
        match fit {
            0 => self.cx.suite.file.seeds.len(),
            _ => 0,
        }
    }

    /// Returns the bytes of a model's file.
    pub fn parameters(&self, task: Task) -> f64 {
        // A tensor's name, type, shape and place.
        const TENSOR: f64 = 100.0;
        let preset = &self.vit.preset;
        let blocks = match task {
            Task::Pretrain { .. } => preset.depth + preset.decoder_depth,
            _ => preset.depth,
        };
        4.0 * cost::parameters(&self.vit, task) as f64 + TENSOR * (12 * blocks + 10) as f64
    }

    /// Returns the bytes of the losses of `epochs` epochs.
    pub fn epochs(&self, epochs: usize) -> f64 {
        EPOCH * epochs as f64
    }

    /// Returns the bytes of the predictions of an evaluation, `columns` classes per validation image.
    pub fn predictions(&self, columns: usize) -> f64 {
        NPY + 4.0 * columns as f64 * self.counts()[1]
    }

    /// Returns the bytes of decoded images while all threads hold `each` of all images.
    fn held_by_all(&self, each: usize) -> f64 {
        self.held.by_all(each, self.counts().iter().sum())
    }

    /// Returns the bytes of the activations of all threads in a forward pass without gradients.
    pub fn encoding_memory(&self) -> f64 {
        let of = (Task::Encode, self.cx.compute.precision());
        let shard = cost::activation_bytes(&self.vit, of, self.vit.shard(), false);
        let copies = cost::working_bytes(&self.vit, of.0, of.1);
        let images = self.vit.shard();
        let all: usize = self.images.counts().iter().sum();
        let threads = self.cx.threads.clamp(1, all.div_ceil(images).max(1));
        self.base() + self.held_by_all(images) + copies as f64 + 1.5 * (shard * threads) as f64
    }

    /// Returns the bytes of the class tokens and means of `images` images by a layer, with the lists from which they are joined.
    pub fn frozen_memory(&self, images: f64, layer: Layer) -> f64 {
        2.0 * 2.0 * 4.0 * images * layer.width(self.vit.preset.width) as f64
    }

    /// Returns the number of images of the train and the validation split.
    pub fn counts(&self) -> [f64; 2] {
        self.images.counts().map(|count| count as f64)
    }

    /// Returns the plan of the row's tokenizer.
    pub fn plan(&self, row: &Row) -> Option<Plan> {
        if let Some(known) = self.plans.borrow().get(&row.name) {
            return *known;
        }
        let plan = self.cx.row_plan(row, Some(self.images));
        self.plans.borrow_mut().insert(row.name.clone(), plan);
        plan
    }

    /// Returns whether this is the first call for `row`, whose stage pays for what all its stages share.
    pub fn is_first(&self, row: &str) -> bool {
        self.known.borrow_mut().insert(row.to_owned())
    }

    /// Returns the shards of a batch and the threads, if a CPU trains and has more threads.
    pub fn idle(&self, batch: usize) -> Option<[usize; 2]> {
        let shards = batch.div_ceil(self.vit.shard_of(batch));
        (!self.is_on_gpu() && shards < self.cx.threads).then_some([shards, self.cx.threads])
    }

    /// Returns the bytes of training: parameters, both moments, the sum of gradients and one waiting gradient per thread with a shard; rounded
    /// and packed matrices; activations and their gradients of a shard per thread; prepared shards with `targets` numbers per image; everything before
    /// the stage.
    pub fn training_memory(
        &self,
        task: Task,
        (batch, targets): (usize, usize),
        checkpointing: bool,
    ) -> f64 {
        let images = self.vit.shard_of(batch);
        let threads = self.cx.threads.clamp(1, batch.div_ceil(images).max(1));
        let precision = self.cx.compute.precision();
        let parameters = 4.0 * cost::parameters(&self.vit, task) as f64;
        let copies = cost::working_bytes(&self.vit, task, precision);
        let shard =
            cost::activation_bytes(&self.vit, (task, precision), images, checkpointing) as f64;
        // Products by emulation read matrices as they are.
        let packs = match self.is_on_gpu() || !has_bf16() {
            true => 0,
            false => cost::packed_bytes(&self.vit, task, precision),
        };
        let (loaded, at_once) = match self.is_on_gpu() {
            true => (LOADED, batch.div_ceil(LOADED)),
            false => (images, 0),
        };
        let waiting = loaded * most(self.cx.workers, at_once);
        self.base()
            + self.held_by_all(images)
            + parameters * (4 + threads) as f64
            + (copies + packs) as f64
            + 1.5 * shard * threads as f64
            + (waiting * cost::prepared_bytes(&self.vit, targets)) as f64
    }
}
