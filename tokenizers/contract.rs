//! The contract: what a tokenizer is, and how one is made.
//!
//! [`Features`] turn images into values per patch; a [`Tokenizer`] turns images into *targets* per patch, ids or
//! values. Each has a stateless factory, which is what the [`Registry`] holds and what the suite
//! parser, `bench list`, `bench schema` and the conformance tests read. To add a tokenizer implement
//! [`TokenizerFactory`] and [`Tokenizer`] and register the factory in one line.

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::Serialize;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_models::vit::VitConfig;
use tessera_models::{TargetSpec, Targets};

use crate::config::Config;
use crate::registry::Registry;
use crate::view::{Image, View, ViewBuf};
use crate::{Error, Result};

/// Rows and columns of patches of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub cols: usize,
}

impl Grid {
    /// `rows * cols`.
    pub fn num_patches(self) -> usize {
        self.rows * self.cols
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// A digest of everything that determines a result; equal digests mean equal results.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// The digest (BLAKE3, hex) of `parts` in order. Lengths are hashed too, so `["ab"]` differs from `["a", "b"]`.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().to_hex().to_string())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a tokenizer must know of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Its pixels: any crop can be tokenized.
    Pixels,
    /// Which image it is (a file of ids): only the evaluation view, and its mirror image, can be tokenized.
    SampleIds,
}

/// What the tables say about a tokenizer beside its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Its making used labels (of any dataset): footnoted wherever it is compared.
    pub saw_labels: bool,
    /// The engine that runs it when it isn't Tessera itself: "onnxruntime 1.24.4", "tract 0.23".
    pub engine: Option<String>,
    /// Passes over the train split that fitted its codebook.
    pub kmeans_epochs: Option<usize>,
    /// Where the weights of its model come from (source, licence, weights, sha256), when a manifest says it.
    pub model: Option<serde_json::Value>,
}

/// The encoder that another row of the suite pretrains.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    /// Its shape.
    pub vit: VitConfig,
    /// Its parameters, `encoder.safetensors`; `None` before that row is pretrained: then nothing but shapes may be asked of
    /// what is built on it.
    pub file: Option<PathBuf>,
    /// The row's own tokenizer saw labels, and so its encoder did.
    pub saw_labels: bool,
}

/// Finds the encoder of the row with a name; the error says what was found and what was expected.
pub type Rows<'a> = dyn Fn(&str) -> std::result::Result<RowEncoder, String> + Sync + 'a;

/// [`BuildContext::rows`] of a program that has no suite.
///
/// # Errors
/// For every name.
pub fn no_rows(name: &str) -> std::result::Result<RowEncoder, String> {
    Err(format!(
        "found {name:?}, but there is no suite whose row it could be"
    ))
}

/// What a factory is given besides its own configuration.
pub struct BuildContext<'a> {
    /// Side of the model's input, pixels.
    pub image_size: usize,
    /// The model's patch grid, which every tokenizer must match.
    pub grid: Grid,
    /// Where K-means and features that have kernels are computed; `None`: on the CPU.
    pub device: Option<&'a Device>,
    /// To build nested features from.
    pub registry: &'a Registry,
    /// Threads the program may use.
    pub threads: usize,
    /// Number of train and val images, once they are scanned.
    pub images: Option<[usize; 2]>,
    /// The encoders that other rows of the suite pretrain. Asking for one makes the row that asks wait for that row.
    pub rows: &'a Rows<'a>,
    /// Largest side that images are decoded for (`fast_decode`): a tokenizer that renders them larger is refused.
    pub finest: Option<usize>,
    /// Whether models may be downloaded; if not, [`Error::NotFetched`].
    pub fetch: bool,
    /// Told about long work: done, total, note.
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
    /// Asked between batches of long work; true means stop with [`Error::Interrupted`].
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> BuildContext<'a> {
    /// Of a program without a suite, for models of this input and grid: one thread, nothing to tell, no way to stop, no downloads.
    pub fn alone(registry: &'a Registry, image_size: usize, grid: Grid) -> Self {
        Self {
            image_size,
            grid,
            device: None,
            registry,
            threads: 1,
            images: None,
            rows: &no_rows,
            finest: None,
            fetch: false,
            progress: &|_, _, _| (),
            interrupted: &|| false,
        }
    }

    /// Number of train images; 0 before they are scanned.
    pub fn num_train(&self) -> usize {
        self.images.map_or(0, |[train, _]| train)
    }
}

/// The train split under the evaluation transform, by index, decoded on demand: never all in memory.
pub trait ImageStream: Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Images `indices` as a view.
    ///
    /// # Errors
    /// When an image no longer decodes.
    fn view(&self, indices: &[usize]) -> Result<ViewBuf>;
}

/// Images to values per patch.
///
/// Deterministic: the same view gives the same values, alone or in a batch, on any number of threads (ONNX
/// engines: at their fixed session batch).
pub trait Features: Send + Sync {
    /// The patch grid of the values; must equal the model's.
    fn grid(&self) -> Grid;
    /// Numbers per patch.
    fn dim(&self) -> usize;
    /// Changes when anything that changes a value changes.
    fn fingerprint(&self) -> Fingerprint;
    /// The values of `view`'s images.
    ///
    /// # Shapes
    /// Returns `[batch, num_patches, dim]`, f32, contiguous, patches in row-major order of the grid.
    ///
    /// # Errors
    /// When rendering or the engine fails.
    fn extract(&self, view: &View<'_>) -> Result<Tensor>;
    /// Their form on a device, of those that have one.
    fn on_device(&self) -> Option<&dyn DeviceFeatures> {
        None
    }
    /// The patch whose values are `values` (`[dim]`), of features that can be inverted: raw pixels.
    fn picture(&self, values: &[f32]) -> Option<Image> {
        let _ = values;
        None
    }
    /// What the tables say about them.
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// [`Features`] that kernels compute from pixels: nothing but images goes to the device.
pub trait DeviceFeatures: Send + Sync {
    /// What [`Features::extract`] gives, to rounding, where it was made.
    ///
    /// # Shapes
    /// Returns `[batch, num_patches, dim]`, f32.
    ///
    /// # Errors
    /// As [`Features::extract`], and what the device says.
    fn extract(&self, device: &Device, view: &View<'_>) -> Result<Memory>;
}

/// Images to targets per patch. Deterministic as [`Features`] are.
pub trait Tokenizer: Send + Sync {
    /// Ids or values, and how many.
    fn target(&self) -> TargetSpec;
    /// The patch grid of the targets; must equal the model's.
    fn grid(&self) -> Grid;
    /// Changes when anything that changes a target changes, a fitted codebook included.
    fn fingerprint(&self) -> Fingerprint;
    /// The targets of `view`'s images.
    ///
    /// # Shapes
    /// Returns ids `[batch, num_patches]` u32, each in `0..codebook_size`, or values
    /// `[batch, num_patches, dim]` f32; patches in row-major order of the grid.
    ///
    /// # Errors
    /// When rendering or the engine fails, or the view is one the tokenizer cannot know ([`Needs::SampleIds`]).
    fn tokenize(&self, view: &View<'_>) -> Result<Targets>;
    /// Writes what `fit` learned into the folder `state` (which exists): `codebook.safetensors` and the like.
    ///
    /// # Errors
    /// When the folder cannot be written.
    fn save(&self, state: &Path) -> Result<()> {
        let _ = state;
        Ok(())
    }
    /// What fitting found, for the store's record of it: a mapping.
    fn fit_report(&self) -> Option<serde_json::Value> {
        None
    }
    /// Whether targets are looked up rather than computed: nothing is gained by keeping them.
    fn looks_up(&self) -> bool {
        false
    }
    /// A picture of the codebook, of a tokenizer whose codes can be drawn: `codebook.png` of a run.
    fn picture(&self) -> Option<Image> {
        None
    }
    /// What the tables say about it.
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// What a configuration will give and cost, known before an image is read: `--dry-run` and the list of a run's stages go by it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// What is predicted for each patch; `None` of ids whose number is known only after learning.
    pub target: Option<TargetSpec>,
    /// [`Tokenizer::looks_up`].
    pub looks_up: bool,
    /// The cost of learning; `None` when nothing is learned.
    pub fit: Option<FitCost>,
}

impl Plan {
    /// Whether targets are ids: training-free metrics apply to them.
    pub fn gives_ids(&self) -> bool {
        self.target
            .is_none_or(|target| target.codebook_size().is_some())
    }
}

/// The cost of [`TokenizerFactory::fit`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitCost {
    /// Images whose features are computed; an image counts once for each time.
    pub images: f64,
    /// Floating-point operations beside the features.
    pub flops: f64,
}

/// Makes [`Features`] of one kind.
pub trait FeaturesFactory: Send + Sync {
    /// Name in suite files, kebab-case: `hog`.
    fn kind(&self) -> &'static str;
    /// One line for `bench list features`.
    fn summary(&self) -> &'static str;
    /// JSON Schema of the fields beside `kind:`.
    fn schema(&self) -> schemars::Schema;
    /// Side in pixels that the fields `with` ask images to be rendered at, where they name one. No file is read: with
    /// `fast_decode` the answer decides how large images are decoded.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong fields.
    fn render_side(&self, with: &Config) -> Result<Option<usize>> {
        let _ = with;
        Ok(None)
    }
    /// Builds from `with` (the mapping without `kind`).
    ///
    /// # Errors
    /// [`Error::Config`] for wrong fields or files, [`Error::Missing`] when a file isn't there.
    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>>;
}

/// Makes [`Tokenizer`]s of one kind. Stateless.
pub trait TokenizerFactory: Send + Sync {
    /// Name in suite files, kebab-case: `kmeans`.
    fn kind(&self) -> &'static str;
    /// One line for `bench list tokenizers`.
    fn summary(&self) -> &'static str;
    /// JSON Schema of `with:`.
    fn schema(&self) -> schemars::Schema;
    /// What its tokenizers must know of an image.
    fn needs(&self) -> Needs {
        Needs::Pixels
    }
    /// Whether its tokenizers learn from the train split (`fit` and `load`) or not (`build`).
    fn learns(&self) -> bool {
        false
    }
    /// Checks `with` as far as that is possible without images, so that a wrong suite stops before any work.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()>;
    /// The features that its tokenizers compute their targets from; `None` of a kind that has none. By default those that the field
    /// `features:` describes.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn features(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Option<Box<dyn Features>>> {
        let features = with.get("features");
        features
            .map(|at| cx.registry.build_features(&at, cx))
            .transpose()
    }
    /// Side in pixels that the fields ask images to be rendered at, as [`FeaturesFactory::render_side`]. By default that of
    /// the features that the field `features:` describes.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong fields.
    fn render_side(&self, with: &Config, registry: &Registry) -> Result<Option<usize>> {
        let features = with.get("features");
        features.map_or(Ok(None), |at| registry.render_side(&at))
    }
    /// What `with` will give and cost. By default what [`build`](Self::build) makes; a kind that learns should answer
    /// itself: by default its number of codes is unknown, and learning costs the features of every image once.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        if self.learns() {
            return Ok(Plan {
                target: None,
                looks_up: false,
                fit: Some(FitCost {
                    images: cx.num_train() as f64,
                    flops: 0.0,
                }),
            });
        }
        let tokenizer = self.build(with, cx)?;
        Ok(Plan {
            target: Some(tokenizer.target()),
            looks_up: tokenizer.looks_up(),
            fit: None,
        })
    }
    /// Everything besides the images and the seed that determines what [`fit`](Self::fit) learns: its own
    /// fields and the fingerprint of the features it learns on. By default the fields as they are written, which is not
    /// enough for a kind that reads files.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let _ = cx;
        Ok(Fingerprint::of(&[with.value().to_string().as_bytes()]))
    }
    /// Builds a tokenizer that has nothing to learn.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong fields or files, [`Error::Missing`] when a file isn't there,
    /// [`Error::Unsupported`] when this kind must be fitted.
    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let _ = (with, cx);
        Err(Error::Unsupported {
            kind: self.kind(),
            what: "build without fit",
        })
    }
    /// Learns a tokenizer from the train split.
    ///
    /// # Errors
    /// As [`build`](Self::build), and [`Error::Fit`] when the data do not allow it.
    fn fit(
        &self,
        with: &Config,
        images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let _ = (with, images, seed, cx);
        Err(Error::Unsupported {
            kind: self.kind(),
            what: "fit",
        })
    }
    /// A fitted tokenizer from the folder that [`Tokenizer::save`] wrote.
    ///
    /// # Errors
    /// When the folder is not one of this kind's.
    fn load(
        &self,
        with: &Config,
        state: &Path,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let _ = (with, state, cx);
        Err(Error::Unsupported {
            kind: self.kind(),
            what: "load",
        })
    }
}
