//! What both ONNX kinds are told: which graph, and how it wants its pixels.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::engine;
use super::model::Model;
use crate::config::Config;
use crate::contract::{Fingerprint, Grid};
use crate::view::{IMAGENET_MEAN, IMAGENET_STD, InputSpec};
use crate::{Error, Result};

/// A model that comes with the program.
struct Embedded {
    name: &'static str,
    bytes: &'static [u8],
    /// Known here, so that no suite can forget to say it.
    saw_labels: bool,
}

macro_rules! embedded {
    ($name:literal, saw_labels: $saw_labels:literal) => {
        Embedded {
            name: $name,
            bytes: include_bytes!(concat!("../embedded/", $name, ".onnx")),
            saw_labels: $saw_labels,
        }
    };
}

const EMBEDDED: &[Embedded] = &[
    embedded!("mosaic_deit", saw_labels: true),
    embedded!("mosaic_perceptual", saw_labels: false),
    embedded!("mosaic_ssl", saw_labels: false),
    embedded!("mosaic_vq", saw_labels: false),
    embedded!("mosaic_vqgan", saw_labels: false),
];

/// How the graph wants its pixels.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of its input, pixels; the graph's own where it is fixed, else the suite's image_size.
    side: Option<usize>,
    /// Channel c of a byte x becomes `(x/255 - mean[c]) / std[c]`: `imagenet`, `zero-one`, `minus-one-one`, or the numbers.
    #[serde(default)]
    scale: Scale,
}

/// Scaling of pixels.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// ImageNet's mean and standard deviation.
    #[default]
    Imagenet,
    /// `x/255`.
    ZeroOne,
    /// `x/127.5 - 1`.
    MinusOneOne,
    /// dVAE's `0.8 x/255 + 0.1`.
    Dvae,
    /// `{custom: {mean: [r, g, b], std: [r, g, b]}}`.
    Custom {
        /// Subtracted, on the 0..1 scale.
        mean: [f32; 3],
        /// Divided by.
        std: [f32; 3],
    },
}

impl Scale {
    fn spec(self, side: usize) -> InputSpec {
        let (mean, std) = match self {
            Self::Imagenet => (IMAGENET_MEAN, IMAGENET_STD),
            Self::ZeroOne => ([0.0; 3], [1.0; 3]),
            Self::MinusOneOne => ([0.5; 3], [0.5; 3]),
            Self::Dvae => ([-0.125; 3], [1.25; 3]),
            Self::Custom { mean, std } => (mean, std),
        };
        InputSpec { side, mean, std }
    }
}

/// A graph that is open, with the pixels it wants.
pub struct Opened {
    /// The graph.
    pub model: Arc<Model>,
    /// Its pixels.
    pub input: InputSpec,
    /// Changes with the file, the pixels and the engine.
    pub fingerprint: Fingerprint,
    /// Whether the model is known to have seen labels; a suite can add that, not take it away.
    pub saw_labels: bool,
}

/// Opens `model:` (a path or `embedded:NAME`) of `with`.
///
/// # Errors
/// [`Error::Missing`] when the file isn't there, [`Error::File`] when it is no ONNX graph with one image input.
pub fn open(
    with: &Config,
    model: &str,
    input: &Input,
    output: Option<&str>,
    image_size: usize,
) -> Result<Opened> {
    let (name, bytes, saw_labels) = read(with, model)?;
    let engine = engine()?;
    let model = Model::open(&name, &bytes, engine, output)?;
    let side = match (input.side, model.side) {
        (Some(asked), Some(fixed)) if asked != fixed => {
            let message = format!(
                "found {asked}, but the graph's input is {fixed} pixels wide; leave `side` out"
            );
            return Err(with.error("input.side", message).into());
        }
        (asked, fixed) => asked.or(fixed).unwrap_or(image_size),
    };
    let spec = input.scale.spec(side);
    let about = format!(
        "onnx 2 {spec:?} batch {} output {output:?} engine {}",
        engine.batch(),
        engine.name
    );
    let fingerprint = Fingerprint::of(&[about.as_bytes(), &bytes]);
    Ok(Opened {
        model,
        input: spec,
        fingerprint,
        saw_labels,
    })
}

/// Name, bytes, and whether it is known to have seen labels.
fn read(with: &Config, model: &str) -> Result<(PathBuf, Vec<u8>, bool)> {
    if let Some(name) = model.strip_prefix("embedded:") {
        let names: Vec<&str> = EMBEDDED.iter().map(|embedded| embedded.name).collect();
        let found = EMBEDDED.iter().find(|embedded| embedded.name == name);
        let embedded = found.ok_or_else(|| {
            with.error(
                "model",
                format!(
                    "no embedded model `{name}`, expected one of {}",
                    names.join(", ")
                ),
            )
        })?;
        return Ok((model.into(), embedded.bytes.to_vec(), embedded.saw_labels));
    }
    let path = with.resolve_path(model);
    match std::fs::read(&path) {
        Ok(bytes) => Ok((path, bytes, false)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing {
            at: with.error("model", format!("{} is not there", path.display())),
            remedy: "set TESSERA_MODELS to the folder that has it, or export it (tokenizers/export/README.md)".into(),
        }),
        Err(error) => Err(Error::File { path, message: error.to_string() }),
    }
}

/// Checks that a graph's output grid is the suite's.
///
/// # Errors
/// [`Error::Config`] on `model`.
pub fn check_grid(with: &Config, found: &[usize], grid: Grid) -> Result<()> {
    let fits = match found {
        [rows, cols] => (*rows, *cols) == (grid.rows, grid.cols),
        [patches] => *patches == grid.num_patches(),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let message = format!(
        "the graph's output has a {} grid, image_size and patch_size ask for {grid} ({} patches); change patch_size or `input: \
         {{side: ...}}`",
        found.join("x"),
        grid.num_patches()
    );
    Err(with.error("model", message).into())
}
