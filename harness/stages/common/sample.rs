//! Measures a row's tokenizer and the metrics on a few images, for the estimates of `--dry-run`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rand::Rng;
use rayon::prelude::*;
use serde_json::Value;
use tessera_models::Targets;
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::{
    BuildContext, ImageStream, Needs, Split, Tokenizer, TokenizerFactory, ViewBuf,
};

use super::context::{Context, Images};
use super::targets::picture;
use crate::data::{CropForm, TrainStream, ViewPlan};
use crate::metrics::{CountsWriter, estimate};
use crate::store::memory;
use crate::suite::Row;

/// Number of images that are decoded, rendered and tokenized for a measurement.
pub const SAMPLE: usize = 64;
/// Images that a thread holds.
pub const CHUNK: usize = 16;
/// Pixels that the sample has at most: of images above 512 pixels there are fewer, so that large images do not take minutes.
const PIXELS: usize = SAMPLE * 512 * 512;
/// Floating-point operations of a fit on the sample.
const FIT_FLOPS: f64 = 2e10;
/// Images, codes and classes of the synthetic counts whose metrics are timed.
const COUNTED: [usize; 3] = [256, 4096, 128];

/// A row's tokenizer on a sample of the train images. A tokenizer that learns is fitted to the sample, so its codes are not those of the
/// run, but their number per image and their file's size are alike.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// Seconds per image on all threads, with decoding and rendering.
    pub seconds: f64,
    /// Mean number of different ids or joint codes in an image under the evaluation transform; 0 for values.
    pub tokens: f64,
    /// Number of images, of different ids in every second one, and of different ids in all; `None` for a tokenizer that learns, whose ids are
    /// not those of the run.
    pub seen: Option<[usize; 3]>,
    /// Bytes of the files that a learned tokenizer saves.
    pub saved: f64,
    /// Bytes of its picture.
    pub picture: f64,
    /// Peak resident bytes of the program during the measurement; `None` if the system does not report it.
    pub memory: Option<f64>,
    /// Why the tokenizer is not measured.
    pub guessed: Option<String>,
}

impl Sampled {
    /// Returns the number of different ids, of `codes`, in `images` images. It grows with every doubling of the images as in the sample, and is
    /// at most that of equally frequent ids.
    pub fn used(&self, codes: f64, images: f64) -> f64 {
        let most = codes * -(-images * self.tokens / codes.max(1.0)).exp_m1();
        let Some([sample, half, whole]) = self.seen.filter(|seen| seen[1] > 0) else {
            return most;
        };
        let doubling = (whole as f64 / half as f64).log2();
        most.min(whole as f64 * (images / sample as f64).powf(doubling))
    }
}

/// The views of training.
pub const CROPS: ViewPlan = ViewPlan::RandomResizedCrop {
    seed: 0,
    epoch: 0,
    scale: (0.2, 1.0),
    form: CropForm::Torchvision,
};

/// Measures the seconds per image, on all threads, of computing its view and calling `work`.
///
/// # Errors
/// If an image cannot be read, and errors of `work`.
pub fn per_image(
    cx: &Context<'_>,
    images: &Images,
    plan: ViewPlan,
    work: &(dyn Fn(&ViewBuf) -> anyhow::Result<()> + Sync),
) -> anyhow::Result<f64> {
    let all = sampled(cx, images);
    let pass = || {
        let shards = all.par_chunks(CHUNK).map(|shard| {
            let eval = cx.suite.file.eval_transform;
            work(&images.dataset.view(Split::Train, shard, plan, eval)?)
        });
        shards.collect::<anyhow::Result<()>>()
    };
    // The first pass opens sessions and fills caches.
    pass()?;
    let start = Instant::now();
    pass()?;
    Ok(start.elapsed().as_secs_f64() / all.len().max(1) as f64)
}

/// Returns the train images of the sample, spread over the split.
pub fn sampled(cx: &Context<'_>, images: &Images) -> Vec<usize> {
    let train = images.dataset.len(Split::Train);
    let fit = PIXELS / cx.suite.file.image_size.pow(2);
    let count = SAMPLE.min(train).min(fit.max(1));
    (0..count).map(|at| at * train / count).collect()
}

/// Measures the row's tokenizer, fitted to the sample if it learns; if it cannot be, the features that it learns on. `flops` is the cost of
/// its fit per image.
///
/// # Errors
/// If neither can be built or an image cannot be read.
pub fn sample(
    cx: &Context<'_>,
    images: &Images,
    row: &Row,
    flops: Option<f64>,
) -> anyhow::Result<Sampled> {
    let Some((kind, with)) = &row.tokenizer else {
        return Ok(Sampled::default());
    };
    let factory = cx.registry.tokenizer(kind, with)?;
    // Of the steps that were measured before.
    memory::release();
    memory::forget_peak();
    let fitted = match factory.learns() {
        true => fitted(cx, images, factory, with, flops),
        false => cx.with_build(None, |build| {
            let labels = images.labels_for(factory);
            Ok(factory.build(with, &BuildContext { labels, ..*build })?)
        }),
    };
    let mut found = match fitted {
        Ok(tokenizer) => tokenized(cx, images, tokenizer.as_ref(), factory)?,
        Err(error) => {
            let features = cx.with_build(None, |build| factory.features(with, build))?;
            let Some(features) = features else {
                return Err(error);
            };
            Sampled {
                seconds: per_image(cx, images, CROPS, &|view| {
                    Ok(features.extract(&view.as_view()).map(drop)?)
                })?,
                guessed: Some(format!("{error:#}")),
                ..Sampled::default()
            }
        }
    };
    found.memory = memory::peak().map(|bytes| bytes as f64);
    Ok(found)
}

/// Fits the tokenizer to as many images of the sample as take about a second.
fn fitted(
    cx: &Context<'_>,
    images: &Images,
    factory: &dyn TokenizerFactory,
    with: &tessera_tokenizers::Config,
    flops: Option<f64>,
) -> anyhow::Result<Box<dyn Tokenizer>> {
    let mut all = sampled(cx, images);
    if let Some(each) = flops.filter(|each| *each > 0.0) {
        all.truncate(((FIT_FLOPS / each) as usize).max(16));
    }
    let stream = Few {
        stream: TrainStream::new(&images.dataset, cx.suite.file.eval_transform),
        images: all,
    };
    let seed = cx.suite.fit_seeds.first().copied().unwrap_or_default();
    cx.with_build(None, |build| {
        let quiet = BuildContext {
            progress: &|_, _, _| {},
            labels: images.labels_for(factory),
            ..*build
        };
        Ok(factory.fit(with, &stream, seed, &quiet)?)
    })
}

fn tokenized(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    factory: &dyn TokenizerFactory,
) -> anyhow::Result<Sampled> {
    let learned = factory.learns();
    let plan = match factory.needs() {
        Needs::SampleIds => ViewPlan::Eval,
        _ => CROPS,
    };
    let seconds = per_image(cx, images, plan, &|view| {
        Ok(tokenizer.tokenize(&view.as_view()).map(drop)?)
    })?;
    let mut saved = 0.0;
    if learned {
        let folder = tempfile::tempdir()?;
        tokenizer.save(folder.path())?;
        saved = bytes_in(folder.path())?;
    }
    let (tokens, seen) = distinct(cx, images, tokenizer)?;
    Ok(Sampled {
        seconds,
        tokens,
        seen: seen.filter(|_| !learned),
        saved,
        picture: picture(tokenizer).map_or(0.0, |png| png.len() as f64),
        ..Sampled::default()
    })
}

/// Returns the mean number of different ids in an image, and what [`Sampled::seen`] has.
fn distinct(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
) -> anyhow::Result<(f64, Option<[usize; 3]>)> {
    let all = sampled(cx, images);
    let eval = cx.suite.file.eval_transform;
    let view = |shard: &[usize]| {
        images
            .dataset
            .view(Split::Train, shard, ViewPlan::Eval, eval)
    };
    let mut different = 0;
    let mut seen = [HashSet::new(), HashSet::new()];
    for shard in all.chunks(CHUNK) {
        let targets = tokenizer.tokenize(&view(shard)?.as_view())?;
        if matches!(targets, Targets::Values(_)) {
            return Ok((0.0, None));
        }
        let Ok(ids) = targets.ids() else {
            // Among so many joint codes, hardly two patches have the same.
            return Ok((tokenizer.grid().num_patches() as f64, None));
        };
        // A chunk is even, so its first image is one of every second.
        for (at, mut ids) in ids.to_vec2::<u32>()?.into_iter().enumerate() {
            ids.sort_unstable();
            ids.dedup();
            different += ids.len();
            seen[at % 2].extend(ids);
        }
    }
    let half = seen[0].len();
    let whole = seen[0].union(&seen[1]).count();
    let mean = different as f64 / all.len().max(1) as f64;
    Ok((mean, Some([all.len(), half, whole])))
}

fn bytes_in(folder: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes as f64)
}

/// The images of the sample as a stream.
struct Few<'a> {
    stream: TrainStream<'a>,
    images: Vec<usize>,
}

impl ImageStream for Few<'_> {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn view(&self, indices: &[usize]) -> tessera_tokenizers::Result<ViewBuf> {
        let indices: Vec<usize> = indices.iter().map(|at| self.images[*at]).collect();
        self.stream.view(&indices)
    }
}

/// Mean number of different ids in an image, codes, classes.
pub type Size = (f64, usize, usize);

/// Returns the ratio of the operations of the metrics of one size to those of another.
pub fn metrics_ratio(images: usize, of: Size, to: Size) -> f64 {
    let work = |(tokens, codes, classes): Size| operations(images, tokens, codes, classes);
    work(of) / work(to)
}

/// Returns the seconds of the metrics of `images` images with `tokens` different ids each. Those of synthetic counts are measured and
/// multiplied with the ratio of their operations.
///
/// # Errors
/// If temporary files cannot be written, or the run is interrupted.
pub fn metrics_seconds(
    cx: &Context<'_>,
    images: usize,
    (tokens, codes, classes): Size,
) -> anyhow::Result<f64> {
    let all = [images, codes, classes];
    let [few, few_codes, few_classes] = std::array::from_fn(|at| all[at].min(COUNTED[at]).max(1));
    let folder = tempfile::tempdir()?;
    let size = (few_codes, few_classes);
    let mut counts = CountsWriter::create(folder.path(), folder.path(), size, None)?;
    let mut rng = keyed_rng(0, "metrics of a sample", 0, 0);
    for image in 0..few {
        let ids = (0..(tokens as usize).max(1)).map(|_| rng.random_range(0..few_codes as u32));
        let ids: Vec<u32> = ids.collect();
        counts.add(&ids, &[(image % few_classes) as u32])?;
    }
    let counts = counts.finish()?;
    let stop = || cx.stop.load(Ordering::Relaxed);
    let start = Instant::now();
    estimate(
        &counts,
        cx.suite.file.metrics.tcas_sharp_t,
        0,
        folder.path(),
        &stop,
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let work = |[images, codes, classes]: [usize; 3]| operations(images, tokens, codes, classes);
    Ok(seconds * work(all) / work([few, few_codes, few_classes]))
}

/// Returns the approximate nanoseconds of a bootstrap draw: a random number per image, an addition per id, and for each row of `R` its
/// classes and their pairs.
fn operations(images: usize, tokens: f64, codes: usize, classes: usize) -> f64 {
    let [images, codes, classes] = [images, codes, classes].map(|count| count as f64);
    let pairs = images * tokens;
    let rows = codes.min(pairs);
    let cells = (pairs / rows.max(1.0)).min(classes);
    images * 60.0 + pairs * 3.0 + rows * cells * (40.0 + 0.7 * cells) + 10.0 * classes * classes
}

/// Returns the configuration of a row's tokenizer without its numbers: equal for the rows of a sweep of numbers.
pub fn shape(row: &Row) -> String {
    fn without(value: &Value) -> Value {
        match value {
            Value::Number(_) => Value::Null,
            Value::Array(items) => items.iter().map(without).collect(),
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), without(v))).collect(),
            other => other.clone(),
        }
    }
    let tokenizer = row.tokenizer.as_ref();
    tokenizer.map_or_else(String::new, |(kind, with)| {
        format!("{kind} {}", without(with.value()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if all ids were equally frequent, which those of photographs are not.
    #[test]
    fn the_number_of_ids_grows_as_in_the_sample() {
        let used = |half: usize, whole: usize| {
            let seen = Some([64, half, whole]);
            let sampled = Sampled {
                tokens: 50.0,
                seen,
                ..Sampled::default()
            };
            sampled.used(1e6, 2048.0)
        };
        // Five doublings of 4/3.
        assert!((used(900, 1200) - 1200.0 * (4.0_f64 / 3.0).powi(5)).abs() < 1e-6);
        let uniform = 1e6 * (1.0 - (-0.1024_f64).exp());
        assert!((used(1600, 3200) - uniform).abs() < 1e-6);
        let unknown = Sampled {
            tokens: 50.0,
            ..Sampled::default()
        };
        assert!((unknown.used(1e6, 2048.0) - uniform).abs() < 1e-6);
    }
}
