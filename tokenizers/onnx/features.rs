//! `onnx` features: patch features of an ONNX encoder.

use std::num::NonZeroUsize;

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;

use super::engine::Output;
use super::fields::{self, Opened};
use super::input::{Input, MOST_IMAGES, MOST_THREADS, Request};
use super::manifest::Manifest;
use crate::config::Config;
use crate::contract::{Facts, Features, Fingerprint, Grid};
use crate::registry::{BuildContext, FeaturesFactory};
use crate::view::View;
use crate::{Error, Result};

/// Self-attention compares all pairs of tokens, so no graph has so many.
const MOST_TOKENS: usize = 1 << 16;

/// Factory of `onnx`.
pub struct OnnxFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The .onnx file, `embedded:NAME` (mosaic_ssl, mosaic_deit), or a file on the Hugging Face hub:
    /// `hf:owner/name/path/file.onnx[@revision]` (`hf:` is optional if no such local file exists). A manifest beside the file
    /// (`file.yaml` or `file.yml` with `sha256`) is checked against it and supplies absent fields.
    model: String,
    /// Size and scaling of the graph's input.
    #[serde(default)]
    input: Input,
    /// Name of the output, f32 `[batch, dim, rows, cols]` or `[batch, tokens, dim]`. Default: the first output.
    output: Option<String>,
    /// Number of tokens before the patch tokens (1 for a class token) in an output `[batch, tokens, dim]`.
    #[serde(default)]
    #[schemars(range(max = MOST_TOKENS))]
    drop_tokens: usize,
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

impl FeaturesFactory for OnnxFactory {
    fn kind(&self) -> &'static str {
        "onnx"
    }

    fn summary(&self) -> &'static str {
        "patch features of an ONNX encoder (DINO, DeiT, MAE, ...): a file, checked against its manifest, or a Hugging Face owner/name/file"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn render_side(&self, with: &Config) -> Result<Option<usize>> {
        let fields: Fields = with.parse()?;
        Ok(fields.input.side)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
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
        if opened.probed.ids {
            let message = "the graph's output is integers; use `kind: onnx-ids` for ids";
            return Err(with.error("model", message).into());
        }
        let layout = Layout::of(&opened.probed.shape, fields.drop_tokens)
            .map_err(|(field, message)| with.error(field, message))?;
        let remedy = layout.remedy(cx.grid);
        fields::check_grid(with, manifest, &layout.grid(), cx.grid, remedy)?;
        if let Some(manifest) = manifest {
            manifest.check("dim", manifest.dim, layout.dim())?;
        }
        let about = format!("drop {}", fields.drop_tokens);
        let fingerprint = Fingerprint::of(&[opened.fingerprint.0.as_bytes(), about.as_bytes()]);
        Ok(Box::new(Onnx {
            opened,
            grid: cx.grid,
            layout,
            fingerprint,
        }))
    }
}

/// Layout of an output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// `[batch, dim, rows, cols]`.
    Planes {
        dim: usize,
        rows: usize,
        cols: usize,
    },
    /// `[batch, drop + patches, dim]`.
    Tokens {
        dim: usize,
        drop: usize,
        patches: usize,
    },
}

impl Layout {
    /// The error is the wrong field and the message.
    fn of(shape: &[usize], drop: usize) -> Result<Self, (&'static str, String)> {
        match *shape {
            [_, dim, rows, cols] if drop == 0 => Ok(Self::Planes { dim, rows, cols }),
            [_, _, _, _] => Err((
                "drop_tokens",
                format!(
                    "found {drop}, but the output has shape {shape:?}, which has no tokens to drop; leave `drop_tokens` out"
                ),
            )),
            [_, tokens, dim] => match tokens.checked_sub(drop) {
                Some(patches) if patches > 0 => Ok(Self::Tokens { dim, drop, patches }),
                _ => Err((
                    "drop_tokens",
                    format!("found {drop}, expected fewer than the {tokens} tokens of the output"),
                )),
            },
            _ => Err((
                "model",
                format!(
                    "the output has shape {shape:?}, expected [batch, dim, rows, cols] or [batch, tokens, dim]"
                ),
            )),
        }
    }

    fn dim(self) -> usize {
        match self {
            Self::Planes { dim, .. } | Self::Tokens { dim, .. } => dim,
        }
    }

    /// Returns the likely fix when the output's grid is not `grid`.
    fn remedy(self, grid: Grid) -> Option<&'static str> {
        let patches = grid.num_patches();
        match self {
            Self::Planes { dim, rows, .. } if [dim, rows] == [grid.rows, grid.cols] => Some(
                "transpose [batch, rows, cols, dim] to [batch, dim, rows, cols] inside the graph",
            ),
            Self::Tokens { dim, .. } if dim == patches => {
                Some("transpose [batch, dim, tokens] to [batch, tokens, dim] inside the graph")
            }
            Self::Tokens { patches: found, .. } if found == patches + 1 => {
                Some("if the first is a class token, write `drop_tokens: 1`")
            }
            _ => None,
        }
    }

    fn grid(self) -> Vec<usize> {
        match self {
            Self::Planes { rows, cols, .. } => vec![rows, cols],
            Self::Tokens { patches, .. } => vec![patches],
        }
    }
}

struct Onnx {
    opened: Opened,
    grid: Grid,
    layout: Layout,
    fingerprint: Fingerprint,
}

impl Features for Onnx {
    fn grid(&self) -> Grid {
        self.grid
    }

    fn dim(&self) -> usize {
        self.layout.dim()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let images = view.render(&self.opened.input)?;
        let (shape, output) = self.opened.model.run(&images)?;
        let Output::Values(values) = output else {
            return Err(Error::Engine {
                engine: self.opened.model.engine.clone(),
                message: "returned integers instead of features".into(),
            });
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let sample = view.samples()[at * shape[0] / values.len()].id;
            return Err(Error::Engine {
                engine: self.opened.model.engine.clone(),
                message: format!(
                    "{} image {}: found the feature value {}, expected finite numbers; check `input: {{scale: ...}}` and the encoder",
                    sample.split.name(),
                    sample.index,
                    values[at]
                ),
            });
        }
        let batch = shape[0];
        let all = Tensor::from_vec(values, shape, &Device::Cpu)?;
        let patches = match self.layout {
            Layout::Planes { .. } => all.flatten_from(2)?.transpose(1, 2)?.contiguous()?,
            Layout::Tokens { drop, patches, .. } => all.narrow(1, drop, patches)?.contiguous()?,
        };
        Ok(patches.reshape((batch, self.grid.num_patches(), self.dim()))?)
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
