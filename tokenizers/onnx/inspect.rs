//! What a graph is, for programs that have no suite to say it.

use serde_json::json;

use super::engine::Output;
use super::fields;
use super::input::{Asked, Input, Place};
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
    /// Whether its file says how it wants its pixels, by its manifest or as one of the program's own.
    pub scale_known: bool,
    /// Tokens before the patches': 1 where there is one more than a square.
    pub drop_tokens: usize,
}

/// Runs the graph at `model` on an image.
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
    let (shape, output) = opened.tried()?;
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
            codebook_size: opened.manifest.as_ref().and_then(|m| m.codebook_size),
            scale_known: model.starts_with("embedded:")
                || opened.manifest.is_some_and(|m| m.input.scale.is_some()),
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
