//! Inspects a graph without a suite.

use serde_json::json;

use super::check::Checked;
use super::fields;
use super::input::{Context, Input, Request};
use super::model::Probed;
use crate::config::Config;
use crate::contract::Grid;
use crate::{Error, Result};

/// Sizes of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Side of the input in pixels; 224 if the graph does not fix it.
    pub side: usize,
    /// Grid of patches. For a list of tokens it is a square.
    pub grid: Grid,
    /// Whether the output holds ids.
    pub ids: bool,
    /// Number of codes according to the manifest.
    pub codebook_size: Option<usize>,
    /// Number of codes of each group according to the manifest.
    pub groups: Option<Vec<usize>>,
    /// Whether the scaling of the pixels is known: from the manifest, or because the model is embedded.
    pub scale_known: bool,
    /// Number of tokens before the patch tokens: 1 if there is one more token than a square.
    pub drop_tokens: usize,
}

/// Checks the bytes of a graph as a row does before an engine opens it: `output`, or the first output if `None`.
///
/// # Errors
/// What was found and expected, and the remedy, without the file's name.
pub fn check(file: &[u8], output: Option<&str>) -> std::result::Result<(), String> {
    Checked::of(file, output).map(drop)
}

/// Runs the graph at `model` on an image and returns its sizes.
///
/// # Errors
/// If it is not an ONNX graph with one image input and an output over patches.
pub fn inspect(model: &str) -> Result<Graph> {
    let with = Config::from_value(json!({"model": model}));
    let request = Request {
        kind: None,
        model,
        input: &Input::default(),
        output: None,
        batch: None,
        threads: None,
        saw_labels: None,
    };
    let cx = Context {
        image_size: 224,
        finest: None,
        fetch: true,
        on_device: false,
        progress: &|_, _, _| (),
        interrupted: &|| false,
    };
    let opened = fields::open(&with, &request, &cx)?;
    let side = opened.input.side;
    let Probed { mut shape, ids } = opened.probed;
    let groups = opened.manifest.as_ref().and_then(|m| m.groups.clone());
    if groups
        .as_ref()
        .is_some_and(|groups| shape.last() == Some(&groups.len()))
    {
        shape.pop();
    }
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
            groups,
            codebook_size: opened.manifest.as_ref().and_then(|m| m.codebook_size),
            scale_known: model.starts_with("embedded:")
                || opened.manifest.is_some_and(|m| m.input.scale.is_some()),
            drop_tokens,
        }),
        None => Err(Error::File {
            path: model.into(),
            message: format!(
                "has an output of shape {shape:?}, expected ids [batch, rows, cols] or features [batch, dim, rows, cols] or [batch, tokens, dim]"
            ),
        }),
    }
}
