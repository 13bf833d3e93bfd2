//! What a graph is, for programs that have no suite to say it.

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::fields::{self, Input};
use super::model::Output;
use crate::config::Config;
use crate::contract::Grid;
use crate::{Error, Result};

/// A graph's own sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Side of its input, pixels; 224 where the graph leaves it open.
    pub side: usize,
    /// Its patches; of a list of tokens the square that has as many.
    pub grid: Grid,
    /// Whether it gives ids.
    pub ids: bool,
    /// Tokens before the patches': 1 where there is one more than a square.
    pub drop_tokens: usize,
}

/// Runs the graph at `model` on a blank image.
///
/// # Errors
/// When it is no ONNX graph with one image input and patches in its output.
pub fn inspect(model: &str) -> Result<Graph> {
    let with = Config::from_value(json!({"model": model}));
    let opened = fields::open(&with, model, &Input::default(), None, 224)?;
    let side = opened.input.side;
    let blank = Tensor::zeros((1, 3, side, side), DType::F32, &Device::Cpu)?;
    let (shape, output) = opened.model.run(&blank)?;
    let ids = matches!(output, Output::Ids(_));
    let square = |tokens: usize| {
        let rows = tokens.isqrt();
        let more = tokens - rows * rows;
        (more <= 1).then_some((rows, rows, more))
    };
    let grid = match (&shape[..], ids) {
        ([_, rows, cols], true) | ([_, _, rows, cols], false) => Some((*rows, *cols, 0)),
        ([_, tokens], true) | ([_, tokens, _], false) => square(*tokens),
        _ => None,
    };
    match grid {
        Some((rows, cols, drop_tokens)) => Ok(Graph {
            side,
            grid: Grid { rows, cols },
            ids,
            drop_tokens,
        }),
        None => Err(Error::File {
            path: model.into(),
            message: format!(
                "gives an output of shape {shape:?}, expected ids [batch, rows, cols] or features [batch, dim, rows, cols] or [batch, tokens, dim]"
            ),
        }),
    }
}
