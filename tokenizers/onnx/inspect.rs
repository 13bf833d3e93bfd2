//! What a graph is, for programs that have no suite to say it.

use serde_json::json;

use super::fields::{self, Asked, Input, Place};
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
    /// Number of codes by its manifest.
    pub codebook_size: Option<usize>,
    /// Tokens before the patches': 1 where there is one more than a square.
    pub drop_tokens: usize,
}

/// Runs the graph at `model` on a blank image.
///
/// # Errors
/// When it is no ONNX graph with one image input and patches in its output.
pub fn inspect(model: &str) -> Result<Graph> {
    let with = Config::from_value(json!({"model": model}));
    let asked = Asked {
        kind: None,
        model,
        input: &Input::default(),
        output: None,
        batch: None,
        threads: None,
        saw_labels: None,
    };
    let place = Place {
        image_size: 224,
        finest: None,
        fetch: true,
        on_device: false,
        progress: &|_, _, _| (),
    };
    let opened = fields::open(&with, &asked, &place)?;
    let side = opened.input.side;
    let (shape, output) = opened.on_blank()?;
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
            codebook_size: opened.manifest.and_then(|manifest| manifest.codebook_size),
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
