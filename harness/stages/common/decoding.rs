//! Measures the decoding of images, and counts the decoded images that are in memory at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use tessera_tokenizers::Split;

use super::context::{Context, Images};
use super::sample::{CHUNK, CROPS, SAMPLE, per_image};
use crate::data;

/// Measures the seconds per image of decoding all of it, on all threads.
///
/// # Errors
/// If an image cannot be decoded.
pub fn whole(images: &Images) -> anyhow::Result<f64> {
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

/// Measures the seconds per image of decoding for a view, on all threads, and the mean bytes of a decoded image in it.
///
/// # Errors
/// If an image cannot be decoded.
pub fn for_views(cx: &Context<'_>, images: &Images) -> anyhow::Result<(f64, f64)> {
    let (bytes, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seconds = per_image(cx, images, CROPS, &|view| {
        let each = view.0.iter().map(|sample| sample.image.rgb.len());
        bytes.fetch_add(each.sum(), Ordering::Relaxed);
        count.fetch_add(view.0.len(), Ordering::Relaxed);
        Ok(())
    })?;
    let mean = bytes.into_inner() as f64 / count.into_inner().max(1) as f64;
    Ok((seconds, mean))
}

/// Returns the bytes of all decoded images; for a dataset whose images are not encoded, estimated from a few.
///
/// # Errors
/// If an image cannot be read.
pub fn bytes(images: &Images) -> anyhow::Result<f64> {
    if let Some(bytes) = images.dataset.decoded_bytes() {
        return Ok(bytes as f64);
    }
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
    let all: usize = images.counts().iter().sum();
    Ok(bytes as f64 * all as f64 / sample.max(1) as f64)
}

/// Counts the decoded images that tasks hold.
#[derive(Clone, Copy, Debug)]
pub struct HeldImages {
    /// Bytes of an image.
    pub image: f64,
    /// Threads.
    pub threads: usize,
    /// Bytes of images that stay in memory or are mapped; those in use are among them.
    pub kept: f64,
}

impl HeldImages {
    /// Counts images of no bytes in `threads` threads.
    pub fn by(threads: usize) -> Self {
        Self {
            image: 0.0,
            threads: threads.max(1),
            kept: 0.0,
        }
    }

    /// Sets the bytes that stay in memory, of `all` decoded images that are `cached` in the store or of a run that `trains`.
    pub fn keep(&mut self, all: f64, cached: bool, trains: bool) {
        self.kept = match cached {
            true => all.min(data::RESIDENT as f64),
            false if trains => all.min(data::TRAINING_CACHE as f64),
            false => 0.0,
        };
    }

    /// Returns the bytes of a stage whose threads hold `each` images, of `images`, besides those that stay in memory.
    pub fn by_all(&self, each: usize, images: f64) -> f64 {
        (self.image * ((self.threads * each) as f64).min(images) - self.kept).max(0.0)
    }

    /// As [`by_all`](Self::by_all), of one thread.
    pub fn by_one(&self, each: usize, images: f64) -> f64 {
        Self {
            threads: 1,
            ..*self
        }
        .by_all(each, images)
    }

    /// Returns the bytes that the measurement of a tokenizer on `images` images holds.
    pub fn by_sample(&self, images: usize) -> f64 {
        Self { kept: 0.0, ..*self }.by_all(CHUNK, images as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_hold_their_batches_and_no_more_than_all_images() {
        let held = HeldImages {
            image: 10.0,
            threads: 3,
            kept: 0.0,
        };
        assert_eq!(held.by_all(32, 1e6), 960.0);
        assert_eq!(held.by_all(32, 40.0), 400.0);
        assert_eq!(held.by_one(32, 1e6), 320.0);
        let kept = HeldImages {
            kept: 900.0,
            ..held
        };
        assert_eq!([kept.by_all(32, 1e6), kept.by_one(32, 1e6)], [60.0, 0.0]);
        assert_eq!([64, 5].map(|images| kept.by_sample(images)), [480.0, 50.0]);
    }
}
