//! `bench speed`: measures one part of a run with the code that a run uses, on synthetic data.
//!
//! Every case warms up and then takes the median of several repeats. On a shared machine only medians, and ratios within one session, are
//! meaningful.

mod case;
mod count;
mod decode;
mod hog;
mod kmeans;
pub mod ledger;
mod noise;
pub mod pretrain;
#[cfg(feature = "onnx")]
mod tokenize;

use tessera_models::Compute;
use tessera_tokenizers::Registry;

use case::Request;
pub use case::{Case, Measured, Options};

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "pretrain",
        presets: pretrain::PRESETS,
        unit: "images/s",
        summary: "full steps of masked pretraining: forward, backward, AdamW",
        options: &["--batch", "--residual-stream"],
        measure: pretrain::steps,
    },
    Case {
        name: "gemm",
        presets: GEMM,
        unit: "images/s or patches/s",
        summary: "only the matrix products of a pretrain or kmeans preset",
        options: &["--batch"],
        measure: products,
    },
    Case {
        name: "kmeans",
        presets: kmeans::PRESETS,
        unit: "patches/s",
        summary: "one assignment and update of K-means over rows in memory",
        options: &[],
        measure: kmeans::kmeans,
    },
    Case {
        name: "hog",
        presets: hog::PRESETS,
        unit: "images/s",
        summary: "HOG of three channels, including rendering",
        options: &[],
        measure: hog::hog,
    },
    Case {
        name: "decode",
        presets: decode::PRESETS,
        unit: "images/s",
        summary: "files (--data, a folder of class folders) to tensors under the evaluation transform",
        options: &["--data"],
        measure: decode::decode,
    },
    Case {
        name: "count",
        presets: count::PRESETS,
        unit: "patches/s",
        summary: "co-occurrence counts of codes and classes",
        options: &[],
        measure: count::count,
    },
    #[cfg(feature = "onnx")]
    Case {
        name: "tokenize",
        presets: tokenize::PRESETS,
        unit: "images/s",
        summary: "an ONNX graph over an image folder (--data, with train/ and val/), including decoding",
        options: &["--data"],
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

fn products(request: &Request<'_>) -> anyhow::Result<f64> {
    match kmeans::PRESETS.contains(&request.preset) {
        true => kmeans::products(request),
        false => pretrain::products(request),
    }
}

/// Measures a case on the current thread pool; `report` receives intermediate results.
///
/// # Errors
/// If the case or preset does not exist, or its data cannot be read.
pub fn measure(
    options: &Options,
    registry: &Registry,
    report: &dyn Fn(&Measured),
) -> anyhow::Result<Measured> {
    let names = || CASES.iter().map(|c| c.name);
    let Some(case) = CASES.iter().find(|c| c.name == options.case) else {
        let known = names().collect::<Vec<_>>().join(", ");
        anyhow::bail!("found case `{}`, expected one of {known}", options.case);
    };
    let preset = options.preset.as_deref().unwrap_or(case.presets[0]);
    let (device, dtype) = device_and_type(case.name, preset, &options.compute)?;
    let value = (case.measure)(&Request {
        preset,
        options,
        registry,
        report,
    })?;
    let unit = match case.name {
        "gemm" if kmeans::PRESETS.contains(&preset) => "patches/s",
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

/// Returns the device and the type of matrix products that a case uses under `compute`.
fn device_and_type(
    case: &str,
    preset: &str,
    compute: &Compute,
) -> anyhow::Result<(&'static str, &'static str)> {
    let dtype = compute.products(tessera_kernels::product::has_bf16());
    let device = compute.kind();
    let has_kernels = match case {
        "kmeans" | "hog" | "count" => true,
        "gemm" => kmeans::PRESETS.contains(&preset),
        _ => false,
    };
    match (case, device, dtype) {
        ("pretrain", ..) => Ok((device, dtype)),
        ("gemm", "cpu", _) if !kmeans::PRESETS.contains(&preset) => Ok((device, dtype)),
        (_, "cpu", "f32") => Ok((device, dtype)),
        // These kernels are always f32, whatever the models' precision.
        (_, "cuda", _) if has_kernels => Ok((device, "f32")),
        _ => anyhow::bail!(
            "case `{case}`, preset `{preset}`, runs on the CPU in f32; found {device} in {dtype}; only pretrain, kmeans, hog, count and \
             the gemm of kmeans accept --device, only pretrain and its gemm accept --precision"
        ),
    }
}
