//! `onnx-ids`: a graph that ends in ids (dVAE, VQGAN, a perceptual codebook).

use std::num::NonZeroUsize;

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, Targets};

use super::engine::Output;
use super::fields::{self, Opened};
use super::input::{Input, MOST_IMAGES, MOST_THREADS, Request};
use super::manifest::{Manifest, agreed};
use crate::config::Config;
use crate::contract::{Facts, Fingerprint, Grid, MOST_CODES, Tokenizer};
use crate::registry::{BuildContext, Registry, TokenizerFactory};
use crate::view::View;
use crate::{Error, Result};

/// Factory of `onnx-ids`.
pub struct OnnxIdsFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The .onnx file, `embedded:NAME` (mosaic_vq, mosaic_vqgan, mosaic_perceptual), or a file on the Hugging Face hub:
    /// `hf:owner/name/path/file.onnx[@revision]` (`hf:` is optional if no such local file exists). A manifest beside the file
    /// (`file.yaml` with `sha256`) is checked against it and supplies absent fields.
    model: String,
    /// Number of different ids. Default: the manifest's value.
    #[schemars(range(min = 1, max = MOST_CODES))]
    codebook_size: Option<NonZeroUsize>,
    /// Size and scaling of the graph's input.
    #[serde(default)]
    input: Input,
    /// Name of the output. Default: the first output. Integers of any type, `[batch, rows, cols]` or `[batch, patches]`, optionally
    /// with a dimension of 1 after the batch or, for patches, at the end.
    output: Option<String>,
    /// Images per call of the engine. Default: the graph's fixed batch, 1 if the graph quantises dynamically, else 16.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    batch: Option<NonZeroUsize>,
    /// Threads per call. Default: 1. Calls run in parallel; more threads per call mean fewer parallel calls and less memory.
    #[schemars(range(min = 1, max = MOST_THREADS))]
    threads: Option<NonZeroUsize>,
    /// Whether training used labels (of any dataset); the report then adds a footnote to the row. Default: the manifest's value, else
    /// false. For embedded models the value is known.
    saw_labels: Option<bool>,
}

impl TokenizerFactory for OnnxIdsFactory {
    fn kind(&self) -> &'static str {
        "onnx-ids"
    }

    fn summary(&self) -> &'static str {
        "an ONNX graph that ends in ids (dVAE, VQGAN, perceptual): a file, checked against its manifest, or a Hugging Face owner/name/file"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn render_side(&self, with: &Config, _: &Registry) -> Result<Option<usize>> {
        let fields: Fields = with.parse()?;
        Ok(fields.input.side)
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        let request = Request {
            kind: Some(self.kind()),
            model: &fields.model,
            input: &fields.input,
            output: fields.output.as_deref(),
            batch: fields.batch,
            threads: fields.threads,
            saw_labels: fields.saw_labels,
        };
        let opened = fields::open(with, &request, &cx.into())?;
        let manifest = opened.manifest.as_ref();
        let written = fields.codebook_size.map(NonZeroUsize::get);
        let codes = agreed(with, manifest, "codebook_size", written, |m| {
            m.codebook_size
        })?;
        let codes = codes.ok_or_else(|| {
            let message = "missing, and no manifest of the model sets it; expected the number of different ids of the graph";
            with.error("codebook_size", message)
        })?;
        let (shape, output) = opened.probe()?;
        if matches!(output, Output::Values(_)) {
            let message = "the graph's output is f32, expected ids (integers); export the argmax inside the graph, or use it as `kind: onnx` features";
            return Err(with.error("model", message).into());
        }
        let found = patches(&shape[1..]);
        let remedy = match found[..] {
            [tokens] if tokens == cx.grid.num_patches() + 1 => {
                Some("if one is a class token, cut it off inside the graph")
            }
            _ => None,
        };
        fields::check_grid(with, manifest, &found, cx.grid, remedy)?;
        let about = format!("ids {codes}");
        let fingerprint = Fingerprint::of(&[opened.fingerprint.0.as_bytes(), about.as_bytes()]);
        Ok(Box::new(OnnxIds {
            opened,
            grid: cx.grid,
            codebook_size: codes,
            fingerprint,
            at: with.error("codebook_size", "").to_string(),
        }))
    }
}

/// Returns rows and columns of ids, or the number of patches. Drops a dimension of 1, which an `argmax` may keep.
fn patches(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [1, rows, cols] => vec![rows, cols],
        [1, patches] | [patches, 1] => vec![patches],
        _ => shape.to_vec(),
    }
}

struct OnnxIds {
    opened: Opened,
    grid: Grid,
    codebook_size: usize,
    fingerprint: Fingerprint,
    /// File, line and field of `codebook_size`, for errors.
    at: String,
}

impl Tokenizer for OnnxIds {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.codebook_size,
        }
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let images = view.render(&self.opened.input)?;
        let (shape, output) = self.opened.model.run(&images)?;
        let engine = || self.opened.model.engine.clone();
        let Output::Ids(ids) = output else {
            return Err(Error::Engine {
                engine: engine(),
                message: "returned numbers instead of ids".into(),
            });
        };
        let ids: Vec<u32> = ids
            .into_iter()
            .map(|id| match u32::try_from(id) {
                Ok(id) if (id as usize) < self.codebook_size => Ok(id),
                _ => {
                    let message = format!(
                        "{}the graph returned the id {id}, which is not in 0..{}; correct codebook_size in the row or in the model's manifest",
                        self.at, self.codebook_size
                    );
                    Err(Error::Engine {
                        engine: engine(),
                        message,
                    })
                }
            })
            .collect::<Result<_>>()?;
        let shape = (shape[0], self.grid.num_patches());
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, &Device::Cpu)?))
    }

    fn facts(&self) -> Facts {
        Facts {
            saw_labels: self.opened.saw_labels,
            engine: Some(self.opened.model.engine.clone()),
            model: self.opened.manifest.as_ref().map(Manifest::provenance),
            ..Facts::default()
        }
    }
}
