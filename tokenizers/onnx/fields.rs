//! What both ONNX kinds are told: which graph, and how it wants its pixels.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedded;
use super::engine::engine;
use super::hub;
use super::manifest::{Manifest, agreed};
use super::model::{Calls, Model, Output};
use crate::config::Config;
use crate::contract::{BuildContext, Fingerprint, Grid};
use crate::view::{IMAGENET_MEAN, IMAGENET_STD, InputSpec};
use crate::{Error, Result};

/// How the graph wants its pixels.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of its input, pixels; the manifest's, else the graph's own where it is fixed, else the suite's image_size.
    pub side: Option<usize>,
    /// Channel c of a byte x becomes `(x/255 - mean[c]) / std[c]`: `imagenet`, `zero-one`, `minus-one-one`, `dvae`, or the numbers;
    /// the manifest's, else `imagenet`.
    scale: Option<Scale>,
}

/// Scaling of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// What a suite says of a graph, of either kind.
pub struct Asked<'a> {
    /// `onnx` or `onnx-ids`; `None` takes either.
    pub kind: Option<&'a str>,
    /// A path, `embedded:NAME`, or a file of the hub.
    pub model: &'a str,
    /// Its pixels.
    pub input: &'a Input,
    /// Its output's name.
    pub output: Option<&'a str>,
    /// Images per call.
    pub batch: Option<NonZeroUsize>,
    /// Threads of a call.
    pub threads: Option<NonZeroUsize>,
    /// Whether its training used labels.
    pub saw_labels: Option<bool>,
}

/// Where a graph is opened.
pub struct Place<'a> {
    /// Side of the model's input, pixels.
    pub image_size: usize,
    /// [`BuildContext::finest`].
    pub finest: Option<usize>,
    /// [`BuildContext::fetch`].
    pub fetch: bool,
    /// Whether there is a [`BuildContext::device`].
    pub on_device: bool,
    /// [`BuildContext::progress`].
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
}

impl<'a> From<&BuildContext<'a>> for Place<'a> {
    fn from(cx: &BuildContext<'a>) -> Self {
        Self {
            image_size: cx.image_size,
            finest: cx.finest,
            fetch: cx.fetch,
            on_device: cx.device.is_some(),
            progress: cx.progress,
        }
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
    /// What is known of it.
    pub manifest: Option<Manifest>,
    /// Whether its training used labels: a suite can say that of an embedded model, not take it away.
    pub saw_labels: bool,
}

impl Opened {
    /// What the graph gives for one blank image: its output's shape, and its numbers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn on_blank(&self) -> Result<(Vec<usize>, Output)> {
        let side = self.input.side;
        let blank = Tensor::zeros((1, 3, side, side), DType::F32, &Device::Cpu)?;
        self.model.run(&blank)
    }
}

/// Opens the graph that `with` asks for, and holds what is asked against its manifest.
///
/// # Errors
/// [`Error::Missing`] when the file isn't there, [`Error::NotFetched`] when it would have to be downloaded first, [`Error::File`]
/// when it is no ONNX graph with one image input or not its manifest's, [`Error::Config`] for a field that contradicts either.
pub fn open(with: &Config, asked: &Asked<'_>, place: &Place<'_>) -> Result<Opened> {
    let Read {
        name,
        bytes,
        manifest,
        saw_labels: embedded_saw_labels,
    } = read(with, asked.model, place)?;
    if let (Some(manifest), Some(kind)) = (&manifest, asked.kind) {
        manifest.check_kind(with, kind)?;
    }
    let engine = engine(place.on_device)?;
    if let Some(note) = engine.note_once() {
        (place.progress)(0, 0, note);
    }
    let calls = Calls {
        batch: asked.batch.map_or(engine.batch(), NonZeroUsize::get),
        threads: engine.threads(asked.threads),
    };
    let model = Model::open(&name, &bytes, engine, asked.output, calls)?;
    let calls = model.calls;
    if let Some(batch) = asked.batch.filter(|batch| batch.get() != calls.batch) {
        let message = format!(
            "found {batch}, but the graph takes {} images at a time; leave `batch` out",
            calls.batch
        );
        return Err(with.error("batch", message).into());
    }
    let side = side(with, asked, &model, manifest.as_ref(), place)?;
    let known = manifest.as_ref();
    let scale = agreed(with, known, "input.scale", asked.input.scale, |m| {
        m.input.scale
    })?;
    let saw_labels = agreed(with, known, "saw_labels", asked.saw_labels, |m| {
        m.saw_labels
    })?;
    let spec = scale.unwrap_or_default().spec(side);
    let about = format!(
        "onnx 3 {spec:?} batch {} threads {} output {:?} engine {}",
        calls.batch, calls.threads, asked.output, engine.name
    );
    Ok(Opened {
        model,
        input: spec,
        fingerprint: Fingerprint::of(&[about.as_bytes(), &bytes]),
        saw_labels: saw_labels.unwrap_or_default() || embedded_saw_labels,
        manifest,
    })
}

/// Side of the graph's input: what the suite, the manifest or the graph fixes, else the model's.
fn side(
    with: &Config,
    asked: &Asked<'_>,
    model: &Model,
    manifest: Option<&Manifest>,
    place: &Place<'_>,
) -> Result<usize> {
    if let (Some(manifest), Some(fixed)) = (manifest, model.side) {
        manifest.check("input.side", manifest.input.side, fixed)?;
    }
    let wanted = agreed(with, manifest, "input.side", asked.input.side, |m| {
        m.input.side
    })?;
    if let (Some(wanted), Some(fixed)) = (wanted, model.side)
        && wanted != fixed
    {
        let message = format!(
            "found {wanted}, but the graph's input is {fixed} pixels wide; leave `side` out"
        );
        return Err(with.error("input.side", message).into());
    }
    let side = wanted.or(model.side).unwrap_or(place.image_size);
    match place.finest.filter(|finest| *finest < side) {
        None => Ok(side),
        Some(finest) => {
            let message = format!(
                "the graph's input is {side} pixels wide, and with `fast_decode` images are decoded for {finest} pixels, the largest side \
                 that the suite names; write `input: {{side: {side}}}`, or set `fast_decode: false`"
            );
            Err(with.error("input.side", message).into())
        }
    }
}

/// A graph's file.
struct Read {
    /// For errors.
    name: PathBuf,
    bytes: Vec<u8>,
    manifest: Option<Manifest>,
    /// Of an embedded model.
    saw_labels: bool,
}

fn read(with: &Config, model: &str, place: &Place<'_>) -> Result<Read> {
    if let Some(name) = model.strip_prefix("embedded:") {
        let found = embedded::model(name).map_err(|message| with.error("model", message))?;
        return Ok(Read {
            name: model.into(),
            bytes: found.bytes.to_vec(),
            manifest: None,
            saw_labels: found.saw_labels,
        });
    }
    let remote = hub::named(model, with.base_dir());
    let remote = remote.map_err(|message| with.error("model", message))?;
    let path = match remote {
        Some(remote) => remote.path(with, place)?,
        None => with.resolve_path(model),
    };
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Read {
            manifest: Manifest::beside(&path, &bytes)?,
            name: path,
            bytes,
            saw_labels: false,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing {
            at: with.error("model", format!("{} is not there", path.display())),
            remedy: "set TESSERA_MODELS to the folder that has it, or export it (tokenizers/export/README.md)".into(),
        }),
        Err(error) => Err(Error::File { path, message: error.to_string() }),
    }
}

/// Checks that a graph's output grid is the suite's, and its manifest's.
///
/// # Errors
/// [`Error::Config`] on `model`, [`Error::File`] on the manifest.
pub fn check_grid(
    with: &Config,
    manifest: Option<&Manifest>,
    found: &[usize],
    grid: Grid,
) -> Result<()> {
    if let Some(manifest) = manifest {
        manifest.check_grid(found)?;
    }
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
