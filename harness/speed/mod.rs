//! `bench speed`: one part of a run, by the very code that a run uses, on made data.
//!
//! Every case warms up, then takes the median over several repeats: on a shared machine only medians, and ratios within one
//! session, mean anything.

pub mod pretrain;
#[cfg(feature = "onnx")]
mod tokenize;
mod vision;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use tessera_kernels::device::launcher::Device;
use tessera_models::Compute;
use tessera_tokenizers::Registry;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name of [`CASES`].
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
    measure: fn(&Asked<'_>) -> anyhow::Result<f64>,
}

/// What a case is given.
struct Asked<'a> {
    preset: &'a str,
    options: &'a Options,
    registry: &'a Registry,
    /// Told what was measured on the way.
    tell: &'a dyn Fn(&Measured),
}

impl Asked<'_> {
    /// Where kernels are launched, if not on the CPU.
    fn launcher(&self) -> anyhow::Result<Option<Device>> {
        let launcher = tessera_kernels::device::beside(self.options.compute.device());
        launcher.map_err(anyhow::Error::msg)
    }
}

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "pretrain",
        presets: pretrain::PRESETS,
        unit: "images/s",
        summary: "whole steps of masked pretraining: forward, backward, AdamW",
        measure: pretrain::steps,
    },
    Case {
        name: "gemm",
        presets: GEMM,
        unit: "images/s or patches/s",
        summary: "the matrix products of a preset of pretrain or kmeans alone, the limit to hold it against",
        measure: products,
    },
    Case {
        name: "kmeans",
        presets: vision::KMEANS,
        unit: "patches/s",
        summary: "an assignment and update over rows in memory",
        measure: vision::kmeans,
    },
    Case {
        name: "hog",
        presets: vision::HOG,
        unit: "images/s",
        summary: "HOG of three channels, rendering included",
        measure: vision::hog,
    },
    Case {
        name: "decode",
        presets: vision::DECODE,
        unit: "images/s",
        summary: "files (--data, a folder of class folders) to tensors under the evaluation transform",
        measure: vision::decode,
    },
    Case {
        name: "count",
        presets: vision::COUNT,
        unit: "patches/s",
        summary: "co-occurrence of codes and classes",
        measure: vision::count,
    },
    #[cfg(feature = "onnx")]
    Case {
        name: "tokenize",
        presets: tokenize::PRESETS,
        unit: "images/s",
        summary: "an ONNX graph over an image folder (--data, with train/ and val/), decoding included",
        measure: tokenize::tokenize,
    },
];

const GEMM: &[&str] = &[
    "vit-ti-32",
    "vit-ti-64",
    "vit-s-224",
    "vit-b-224",
    "100k-768-50",
    "100k-192-100",
];

fn products(asked: &Asked<'_>) -> anyhow::Result<f64> {
    match vision::KMEANS.contains(&asked.preset) {
        true => vision::kmeans_products(asked),
        false => pretrain::products(asked),
    }
}

/// Measures a case on the current thread pool; `tell` hears of what is measured on the way.
///
/// # Errors
/// When there is no such case or preset, or its data cannot be read.
pub fn measure(
    options: &Options,
    registry: &Registry,
    tell: &dyn Fn(&Measured),
) -> anyhow::Result<Measured> {
    let names = || CASES.iter().map(|c| c.name);
    let Some(case) = CASES.iter().find(|c| c.name == options.case) else {
        let known = names().collect::<Vec<_>>().join(", ");
        anyhow::bail!("found case `{}`, expected one of {known}", options.case);
    };
    let preset = options.preset.as_deref().unwrap_or(case.presets[0]);
    let (device, dtype) = placed(case.name, preset, &options.compute)?;
    let value = (case.measure)(&Asked {
        preset,
        options,
        registry,
        tell,
    })?;
    let unit = match case.name {
        "gemm" if vision::KMEANS.contains(&preset) => "patches/s",
        "gemm" => "images/s",
        _ => case.unit,
    };
    Ok(Measured {
        case: case.name.to_owned(),
        preset: preset.to_owned(),
        unit,
        value,
        device,
        dtype,
    })
}

/// The device and the type of products that a case has of those asked for.
fn placed(
    case: &str,
    preset: &str,
    compute: &Compute,
) -> anyhow::Result<(&'static str, &'static str)> {
    let (device, dtype) = (compute.kind(), compute.precision().name());
    let has_kernels = match case {
        "kmeans" | "hog" | "count" => true,
        "gemm" => vision::KMEANS.contains(&preset),
        _ => false,
    };
    match (case, device, dtype) {
        ("pretrain", ..) => Ok((device, dtype)),
        (_, "cpu", "f32") => Ok((device, dtype)),
        // Whatever models compute in.
        (_, "cuda", _) if has_kernels => Ok((device, "f32")),
        _ => anyhow::bail!(
            "case `{case}`, preset `{preset}`, runs on the CPU in f32; found {device} in {dtype}; --device is for pretrain, kmeans, hog, \
             count and the gemm of kmeans, --precision for pretrain alone"
        ),
    }
}

/// The preset is none of the case's.
fn unknown_preset(found: &str, known: &[&str]) -> anyhow::Error {
    anyhow::anyhow!(
        "found preset `{found}`, expected one of {} (or another of its form where it is numbers)",
        known.join(", ")
    )
}

/// Repeats that are timed.
const REPEATS: usize = 5;

/// Median seconds of `work` after one run to warm up.
fn median_seconds(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    work()?;
    let mut seconds = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
