//! `onnx` features: an encoder's patch features.

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;

use super::fields::{self, Input, Opened};
use super::model::Output;
use crate::config::Config;
use crate::contract::{BuildContext, Facts, Features, FeaturesFactory, Fingerprint, Grid};
use crate::view::View;
use crate::{Error, Result};

/// Factory of `onnx`.
pub struct OnnxFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The .onnx file, or `embedded:mosaic_ssl` (or `mosaic_deit`).
    model: String,
    /// How it wants its pixels.
    #[serde(default)]
    input: Input,
    /// Name of the output; the first when absent. `[batch, dim, rows, cols]` or `[batch, tokens, dim]`, f32.
    output: Option<String>,
    /// Tokens before the patches' (1 for a class token) in an output of shape `[batch, tokens, dim]`.
    #[serde(default)]
    drop_tokens: usize,
    /// Whether its training used labels (of any dataset), which footnotes the row; embedded models know it themselves.
    #[serde(default)]
    saw_labels: bool,
}

impl FeaturesFactory for OnnxFactory {
    fn kind(&self) -> &'static str {
        "onnx"
    }

    fn summary(&self) -> &'static str {
        "patch features of an ONNX encoder (DINO, DeiT, MAE, ...)"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let fields: Fields = with.parse()?;
        let opened = fields::open(
            with,
            &fields.model,
            &fields.input,
            fields.output.as_deref(),
            cx.image_size,
        )?;
        let side = opened.input.side;
        let blank = Tensor::zeros((1, 3, side, side), candle_core::DType::F32, &Device::Cpu)?;
        let (shape, output) = opened.model.run(&blank)?;
        if matches!(output, Output::Ids(_)) {
            let message = "the graph's output is integers; use `kind: onnx-ids` for ids";
            return Err(with.error("model", message).into());
        }
        let layout = Layout::of(&shape, fields.drop_tokens)
            .ok_or_else(|| with.error("model", format!("the output has shape {shape:?}, expected [batch, dim, rows, cols] or [batch, tokens, dim]")))?;
        fields::check_grid(with, &layout.grid(), cx.grid)?;
        let saw_labels = fields.saw_labels || opened.saw_labels;
        let about = format!("drop {} labels {saw_labels}", fields.drop_tokens);
        let fingerprint = Fingerprint::of(&[opened.fingerprint.0.as_bytes(), about.as_bytes()]);
        Ok(Box::new(Onnx {
            opened,
            grid: cx.grid,
            layout,
            fingerprint,
            saw_labels,
        }))
    }
}

/// How an output is laid out.
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
    fn of(shape: &[usize], drop: usize) -> Option<Self> {
        match *shape {
            [_, dim, rows, cols] => Some(Self::Planes { dim, rows, cols }),
            [_, tokens, dim] => Some(Self::Tokens {
                dim,
                drop,
                patches: tokens.checked_sub(drop)?,
            }),
            _ => None,
        }
    }

    fn dim(self) -> usize {
        match self {
            Self::Planes { dim, .. } | Self::Tokens { dim, .. } => dim,
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
    saw_labels: bool,
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
                message: "integers instead of features".into(),
            });
        };
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
            saw_labels: self.saw_labels,
            engine: Some(self.opened.model.engine.clone()),
            ..Facts::default()
        }
    }
}
