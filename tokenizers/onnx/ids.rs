//! `onnx-ids`: a graph that ends in ids (dVAE, VQGAN, a perceptual codebook).

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, Targets};

use super::fields::{self, Input, Opened};
use super::model::Output;
use crate::config::Config;
use crate::contract::{BuildContext, Facts, Fingerprint, Grid, Tokenizer, TokenizerFactory};
use crate::view::View;
use crate::{Error, Result};

/// Factory of `onnx-ids`.
pub struct OnnxIdsFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The .onnx file, or `embedded:mosaic_vq` (or `mosaic_vqgan`, `mosaic_perceptual`).
    model: String,
    /// Number of ids the graph can give.
    codebook_size: usize,
    /// How it wants its pixels.
    #[serde(default)]
    input: Input,
    /// Name of the output; the first when absent. `[batch, rows, cols]` or `[batch, patches]`, i64 or i32.
    output: Option<String>,
    /// Whether its training used labels (of any dataset), which footnotes the row; embedded models know it themselves.
    #[serde(default)]
    saw_labels: bool,
}

impl TokenizerFactory for OnnxIdsFactory {
    fn kind(&self) -> &'static str {
        "onnx-ids"
    }

    fn summary(&self) -> &'static str {
        "an ONNX graph that ends in ids (dVAE, VQGAN, perceptual)"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        if fields.codebook_size == 0 {
            return Err(with
                .error("codebook_size", "found 0, expected at least 1")
                .into());
        }
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
        if matches!(output, Output::Values(_)) {
            let message = "the graph's output is f32; expected ids (i64 or i32): export the argmax inside the graph, or use it as `kind: onnx` features";
            return Err(with.error("model", message).into());
        }
        fields::check_grid(with, &shape[1..], cx.grid)?;
        let about = format!("ids {}", fields.codebook_size);
        let fingerprint = Fingerprint::of(&[opened.fingerprint.0.as_bytes(), about.as_bytes()]);
        let saw_labels = fields.saw_labels || opened.saw_labels;
        Ok(Box::new(OnnxIds {
            opened,
            grid: cx.grid,
            codebook_size: fields.codebook_size,
            fingerprint,
            saw_labels,
            at: with.error("codebook_size", "").to_string(),
        }))
    }
}

struct OnnxIds {
    opened: Opened,
    grid: Grid,
    codebook_size: usize,
    fingerprint: Fingerprint,
    saw_labels: bool,
    /// File, line and field of the codebook's size, for errors.
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
                message: "numbers instead of ids".into(),
            });
        };
        let ids: Vec<u32> = ids
            .into_iter()
            .map(|id| match u32::try_from(id) {
                Ok(id) if (id as usize) < self.codebook_size => Ok(id),
                _ => {
                    let message = format!(
                        "{}the graph gives id {id}, which is not in 0..{}; set codebook_size to its number of codes",
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
            saw_labels: self.saw_labels,
            engine: Some(self.opened.model.engine.clone()),
            ..Facts::default()
        }
    }
}
