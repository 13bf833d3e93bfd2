//! A case of `bench speed`: its input, and the timing.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use tessera_kernels::device::launcher::Device;
use tessera_models::{Compute, Precision};
use tessera_tokenizers::Registry;

/// Options of a measurement.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of a case in [`CASES`](super::CASES).
    pub case: String,
    /// A preset of the case; `None` selects the first.
    pub preset: Option<String>,
    /// Images per step, for `pretrain` and its `gemm`.
    pub batch: Option<usize>,
    /// Type of the residual stream of `pretrain` in bf16 on a GPU.
    pub residual_stream: Precision,
    /// A folder of images for `decode` and `tokenize`.
    pub data: Option<PathBuf>,
    /// Device and type of `pretrain`; `kmeans`, `hog` and `count` use the device in f32, other cases the CPU.
    pub compute: Compute,
}

/// A measured rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The case.
    pub case: String,
    /// The preset.
    pub preset: String,
    /// Unit of `value`.
    pub unit: &'static str,
    /// Median rate.
    pub value: f64,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// Type of the matrix products, `f32`, `bf16` or `bf16-emulated`.
    pub dtype: &'static str,
}

/// A part of a run that can be measured.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Its presets, the default first.
    pub presets: &'static [&'static str],
    /// Unit of the rate.
    pub unit: &'static str,
    /// Description in one line.
    pub summary: &'static str,
    /// Options of the command line that it reads beside those of every case.
    pub options: &'static [&'static str],
    /// Measures the rate, in `unit`.
    pub(super) measure: fn(&Request<'_>) -> anyhow::Result<f64>,
}

/// Input of a case.
pub(super) struct Request<'a> {
    /// The preset.
    pub preset: &'a str,
    /// The options.
    pub options: &'a Options,
    /// Factories of tokenizers.
    pub registry: &'a Registry,
    /// Receives intermediate results.
    pub report: &'a dyn Fn(&Measured),
}

impl Request<'_> {
    /// Returns the launcher of kernels; `None` on the CPU.
    pub fn launcher(&self) -> anyhow::Result<Option<Device>> {
        let launcher = tessera_kernels::device::beside(self.options.compute.device());
        launcher.map_err(anyhow::Error::msg)
    }
}

/// The error for a preset that the case does not have.
pub(super) fn unknown_preset(found: &str, known: &[&str]) -> anyhow::Error {
    anyhow::anyhow!(
        "found preset `{found}`, expected one of {} (a numeric preset may have other numbers)",
        known.join(", ")
    )
}

/// Number of timed repeats.
pub(super) const REPEATS: usize = 5;

/// Returns the median seconds of `work` after one warm-up run.
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

/// Returns the upper median.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
