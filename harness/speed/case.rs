//! A case of `bench speed`: what it is given, and how it takes the time.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use tessera_kernels::device::launcher::Device;
use tessera_models::Compute;
use tessera_tokenizers::Registry;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name of [`CASES`](super::CASES).
    pub case: String,
    /// A preset of the case; its first where `None`.
    pub preset: Option<String>,
    /// Images per step, of the cases that take steps.
    pub batch: Option<usize>,
    /// A folder of images, for `decode` and `tokenize`.
    pub data: Option<PathBuf>,
    /// Where and in which type `pretrain` computes; `kmeans`, `hog` and `count` run there in f32, other cases on the CPU.
    pub compute: Compute,
}

/// A measured rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The case.
    pub case: String,
    /// The preset.
    pub preset: String,
    /// What `value` counts.
    pub unit: &'static str,
    /// Median rate.
    pub value: f64,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// Type of the matrix products, `f32` or `bf16`.
    pub dtype: &'static str,
}

/// A part of a run that can be measured.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Its presets, the usual one first.
    pub presets: &'static [&'static str],
    /// What is counted.
    pub unit: &'static str,
    /// What it is.
    pub summary: &'static str,
    /// Measures the rate, in `unit`.
    pub(super) measure: fn(&Asked<'_>) -> anyhow::Result<f64>,
}

/// What a case is given.
pub(super) struct Asked<'a> {
    /// The preset.
    pub preset: &'a str,
    /// The options.
    pub options: &'a Options,
    /// Factories of tokenizers.
    pub registry: &'a Registry,
    /// Told what was measured on the way.
    pub tell: &'a dyn Fn(&Measured),
}

impl Asked<'_> {
    /// Where kernels are launched, if not on the CPU.
    pub fn launcher(&self) -> anyhow::Result<Option<Device>> {
        let launcher = tessera_kernels::device::beside(self.options.compute.device());
        launcher.map_err(anyhow::Error::msg)
    }
}

/// The preset is none of the case's.
pub(super) fn unknown_preset(found: &str, known: &[&str]) -> anyhow::Error {
    anyhow::anyhow!(
        "found preset `{found}`, expected one of {} (or another of its form where it is numbers)",
        known.join(", ")
    )
}

/// Repeats that are timed.
pub(super) const REPEATS: usize = 5;

/// Median seconds of `work` after one run to warm up.
pub(super) fn median_seconds(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    work()?;
    let mut seconds = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

/// The upper median.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
