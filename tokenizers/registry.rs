//! How tokenizers and features are made: their factories, what a factory is given, and the table of all factories by kind.
//!
//! `bench list`, the suite parser, the JSON Schema and the conformance tests all read the [`Registry`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tessera_kernels::device::launcher::Device;
use tessera_models::vit::VitConfig;

use crate::config::{Config, expected_one_of};
use crate::contract::{Features, Fingerprint, FitCost, Grid, ImageStream, Needs, Plan, Tokenizer};
use crate::{Error, Result};

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

/// Factories of tokenizers and features by kind.
#[derive(Default)]
pub struct Registry {
    tokenizers: BTreeMap<&'static str, Box<dyn TokenizerFactory>>,
    features: BTreeMap<&'static str, Box<dyn FeaturesFactory>>,
}

impl Registry {
    /// No tokenizers at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds a tokenizer; a kind that is already there is replaced.
    #[must_use]
    pub fn with(mut self, factory: impl TokenizerFactory + 'static) -> Self {
        self.tokenizers.insert(factory.kind(), Box::new(factory));
        self
    }

    /// Adds features; a kind that is already there is replaced.
    #[must_use]
    pub fn with_features(mut self, factory: impl FeaturesFactory + 'static) -> Self {
        self.features.insert(factory.kind(), Box::new(factory));
        self
    }

    /// All tokenizer factories, by kind.
    pub fn tokenizers(&self) -> impl Iterator<Item = &dyn TokenizerFactory> {
        self.tokenizers.values().map(AsRef::as_ref)
    }

    /// All feature factories, by kind.
    pub fn features(&self) -> impl Iterator<Item = &dyn FeaturesFactory> {
        self.features.values().map(AsRef::as_ref)
    }

    /// The tokenizer factory of `kind`; `at` is the piece of the suite that names it, for the error.
    ///
    /// # Errors
    /// [`Error::Config`] with the nearest valid kind.
    pub fn tokenizer(&self, kind: &str, at: &Config) -> Result<&dyn TokenizerFactory> {
        match self.tokenizers.get(kind) {
            Some(factory) => Ok(factory.as_ref()),
            None => Err(unknown_kind(
                "tokenizer",
                kind,
                self.tokenizers.keys().copied(),
                at,
            )),
        }
    }

    /// Builds the features that `at` (`{kind: hog, ...}`) describes, and checks their grid against the model's.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind, wrong fields, or a grid that is not the suite's.
    pub fn build_features(&self, at: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let (factory, with) = self.features_factory(at)?;
        let features = factory.build(&with, cx)?;
        if features.grid() != cx.grid {
            let message = format!(
                "gives a {} grid of patches, the suite's image_size and patch_size ask for {}; change them or the features",
                features.grid(),
                cx.grid
            );
            return Err(at.error("", message).into());
        }
        Ok(features)
    }

    /// Side in pixels that the features `at` ask images to be rendered at, where their fields name one.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind or wrong fields.
    pub fn render_side(&self, at: &Config) -> Result<Option<usize>> {
        let (factory, with) = self.features_factory(at)?;
        factory.render_side(&with)
    }

    /// The factory of the features `at`, and their fields.
    fn features_factory(&self, at: &Config) -> Result<(&dyn FeaturesFactory, Config)> {
        let (kind, with) = at.split_kind()?;
        match self.features.get(kind.as_str()) {
            Some(factory) => Ok((factory.as_ref(), with)),
            None => Err(unknown_kind(
                "features",
                &kind,
                self.features.keys().copied(),
                at,
            )),
        }
    }
}

fn unknown_kind<'a>(
    what: &str,
    kind: &str,
    known: impl Iterator<Item = &'a str>,
    at: &Config,
) -> Error {
    let expected = expected_one_of(kind, known);
    at.error("kind", format!("unknown {what} kind `{kind}`, {expected}"))
        .into()
}
