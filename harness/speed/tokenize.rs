//! An ONNX graph over a dataset, including decoding.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::json;
use tessera_models::{TargetSpec, Targets};
use tessera_tokenizers::onnx::{Graph, inspect};
use tessera_tokenizers::{
    Config, Fingerprint, Grid, InputSpec, MOST_CODES, Split, Tokenizer, View,
};

use super::case::{Measured, Request, median_seconds};
use super::noise::{noises, with_build};
use crate::data::targets::Walk;
use crate::data::{Dataset, Decoding, EvalTransform, ImageFolder, ViewPlan, scan};

/// A placeholder: any path is a preset.
pub(super) const PRESETS: &[&str] = &["PATH.onnx"];

/// Measures decoding and the graph together in images per second; reports the rate of each alone first.
pub(super) fn tokenize(request: &Request<'_>) -> anyhow::Result<f64> {
    let Some(root) = &request.options.data else {
        anyhow::bail!("expected --data DIR, an image folder with train/ and val/");
    };
    anyhow::ensure!(
        !PRESETS.contains(&request.preset),
        "expected --preset PATH.onnx, the graph to run"
    );
    let graph = inspect(request.preset)?;
    let tokenizer = build(request, &graph)?;
    let dataset = open(root)?;
    let render = Render {
        input: InputSpec::imagenet(graph.side),
        grid: tokenizer.grid(),
    };
    let decoding = walk(&dataset, &render)?;
    let inference = alone(tokenizer.as_ref(), graph.side)?;
    let both = walk(&dataset, tokenizer.as_ref())?;
    for (part, value) in [("decode", decoding), ("inference", inference)] {
        (request.report)(&Measured {
            device: "cpu",
            dtype: "f32",
            case: format!("tokenize-{part}"),
            preset: request.preset.to_owned(),
            unit: "images/s",
            value,
        });
    }
    Ok(both)
}

fn build(request: &Request<'_>, graph: &Graph) -> anyhow::Result<Box<dyn Tokenizer>> {
    // The pixels' scale does not affect the time.
    let input = match graph.scale_known {
        true => json!({}),
        false => json!({"scale": "zero-one"}),
    };
    let (kind, with) = match graph.ids {
        true => {
            let mut with = json!({"model": request.preset, "input": input});
            match &graph.groups {
                Some(groups) => with["groups"] = json!(groups),
                None => with["codebook_size"] = json!(graph.codebook_size.unwrap_or(MOST_CODES)),
            }
            ("onnx-ids", with)
        }
        false => (
            "continuous",
            json!({"features": {"kind": "onnx", "model": request.preset, "input": input, "drop_tokens": graph.drop_tokens}}),
        ),
    };
    let with = Config::from_value(with);
    let factory = request.registry.tokenizer(kind, &with)?;
    Ok(with_build(
        request.registry,
        (graph.side, graph.grid),
        |build| factory.build(&with, build),
    )?)
}

fn open(root: &Path) -> anyhow::Result<Dataset> {
    let spec = ImageFolder {
        held: None,
        root: root.to_owned(),
        classes: None,
        decoding: Decoding::default(),
    };
    let cache = tempfile::tempdir()?;
    let scan = scan(&spec, cache.path(), &|_, _, _| (), &|| false)?;
    Ok(Dataset::open(&spec, &scan)?)
}

/// Measures images per second over the validation split.
fn walk(dataset: &Dataset, tokenizer: &dyn Tokenizer) -> anyhow::Result<f64> {
    let walk = Walk {
        dataset,
        split: Split::Val,
        eval: EvalTransform {
            resize_shorter: 256,
            crop: 224,
        },
        plan: ViewPlan::Eval,
        interrupted: &|| false,
        progress: &|_, _| (),
    };
    let seconds = median_seconds(|| walk.each_batch(tokenizer, |_, _| Ok(())))?;
    Ok(dataset.len(Split::Val) as f64 / seconds)
}

/// Measures images per second without decoding and resampling.
fn alone(tokenizer: &dyn Tokenizer, side: usize) -> anyhow::Result<f64> {
    let views = noises(side);
    let images: usize = views.iter().map(|view| view.0.len()).sum();
    let seconds = median_seconds(|| {
        let all = views
            .par_iter()
            .map(|view| tokenizer.tokenize(&view.as_view()).map(drop));
        Ok(all.collect::<Result<(), _>>()?)
    })?;
    Ok(images as f64 / seconds)
}

/// Renders the graph's input without running the graph.
struct Render {
    input: InputSpec,
    grid: Grid,
}

impl Tokenizer for Render {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids { codebook_size: 1 }
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[b"render"])
    }

    fn tokenize(&self, view: &View<'_>) -> tessera_tokenizers::Result<Targets> {
        std::hint::black_box(view.render(&self.input)?);
        let shape = (view.batch(), self.grid.num_patches());
        Ok(Targets::Ids(Tensor::zeros(
            shape,
            DType::U32,
            &Device::Cpu,
        )?))
    }
}
