//! Factories of tokenizers and features, the context they build in, and the table of all factories by kind.
//!
//! `bench list`, the suite parser, the JSON Schema and the conformance tests read the [`Registry`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tessera_kernels::device::launcher::Device;
use tessera_models::vit::VitConfig;

use crate::config::{Config, expected_one_of};
use crate::contract::{
    Features, Fingerprint, FitCost, Grid, ImageStream, Labels, Needs, Plan, Tokenizer,
};
use crate::view::Split;
use crate::{Error, Result};

/// Encoder that another row of the suite pretrains.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    /// Shape of the encoder.
    pub vit: VitConfig,
    /// Parameters, `encoder.safetensors`. `None` before that row is pretrained; then only shapes of features on it may be used.
    pub file: Option<PathBuf>,
    /// Whether the row's tokenizer used labels, and so its encoder did.
    pub saw_labels: bool,
}

/// Finds the encoder of a row by name. The error says what was found and expected.
pub type Rows<'a> = dyn Fn(&str) -> std::result::Result<RowEncoder, String> + Sync + 'a;

/// Names of a dataset's images by split and index.
pub type ImageNames<'a> = dyn Fn(Split, usize) -> String + Sync + 'a;

/// Returns the label of an image of a split by its index, to compare the order of files with it. No tokenizer may compute ids from it.
pub type LabelsInOrder<'a> = dyn Fn(Split, usize) -> u32 + Sync + 'a;

/// [`BuildContext::rows`] of a program without a suite.
///
/// # Errors
/// For every name.
pub fn no_rows(name: &str) -> std::result::Result<RowEncoder, String> {
    Err(format!("found {name:?}, but there is no suite with rows"))
}

/// What may happen to the programs that a suite names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// They are started when a tokenizer is built.
    Start,
    /// They are not started: their fields are checked, and building returns [`Error::NotStarted`].
    Leave,
    /// Rows that name one are refused.
    Refuse,
}

/// Input of a factory besides its configuration.
pub struct BuildContext<'a> {
    /// Side of the model's input, pixels.
    pub image_size: usize,
    /// The model's patch grid, which every tokenizer must match.
    pub grid: Grid,
    /// Device for K-means and for features that have kernels; `None` for the CPU.
    pub device: Option<&'a Device>,
    /// Registry for nested features.
    pub registry: &'a Registry,
    /// Threads the program may use.
    pub threads: usize,
    /// Number of train and val images; `None` before they are scanned.
    pub images: Option<[usize; 2]>,
    /// Largest possible number of train images, if it is known before they are scanned: some may not decode.
    pub at_most: Option<usize>,
    /// Returns the name of an image of a split by its index, one line, as `bench tokenize` writes it; `None` before the images are scanned.
    pub names: Option<&'a ImageNames<'a>>,
    /// Returns the label of an image of a split by its index; `None` before the images are scanned.
    pub order: Option<&'a LabelsInOrder<'a>>,
    /// Labels of the images, for kinds with [`Needs::Labels`]; `None` for other kinds, and before the images are scanned.
    pub labels: Option<Labels<'a>>,
    /// Encoders that other rows of the suite pretrain. A row that requests one waits for that row.
    pub rows: &'a Rows<'a>,
    /// Largest side for which images are decoded (`fast_decode`). A tokenizer that renders larger images is refused.
    pub finest: Option<usize>,
    /// Whether models may be downloaded; otherwise [`Error::NotFetched`].
    pub fetch: bool,
    /// Whether programs may be started.
    pub programs: Programs,
    /// Receives the progress of long work: done, total, note.
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
    /// Checked between batches of long work; if true, the work ends with [`Error::Interrupted`].
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> BuildContext<'a> {
    /// Returns the context of a program without a suite, for this input and grid: one thread, no progress, no interruption, no downloads.
    pub fn alone(registry: &'a Registry, image_size: usize, grid: Grid) -> Self {
        Self {
            image_size,
            grid,
            device: None,
            registry,
            threads: 1,
            images: None,
            at_most: None,
            names: None,
            order: None,
            labels: None,
            rows: &no_rows,
            finest: None,
            fetch: false,
            programs: Programs::Start,
            progress: &|_, _, _| (),
            interrupted: &|| false,
        }
    }

    /// Returns the number of train images; 0 before they are scanned.
    pub fn num_train(&self) -> usize {
        self.images.map_or(0, |[train, _]| train)
    }
}

/// Builds [`Features`] of one kind.
pub trait FeaturesFactory: Send + Sync {
    /// Name in suite files, kebab-case: `hog`.
    fn kind(&self) -> &'static str;
    /// One line for `bench list features`.
    fn summary(&self) -> &'static str;
    /// JSON Schema of the fields beside `kind:`.
    fn schema(&self) -> schemars::Schema;
    /// Returns the side in pixels of rendered images if `with` sets it. Reads no file. With `fast_decode` the side decides how large
    /// images are decoded.
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
    /// [`Error::Config`] for wrong fields or files, [`Error::Missing`] if a file does not exist.
    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>>;
}

/// Builds [`Tokenizer`]s of one kind. Stateless.
pub trait TokenizerFactory: Send + Sync {
    /// Name in suite files, kebab-case: `kmeans`.
    fn kind(&self) -> &'static str;
    /// One line for `bench list tokenizers`.
    fn summary(&self) -> &'static str;
    /// JSON Schema of `with:`.
    fn schema(&self) -> schemars::Schema;
    /// Returns what its tokenizers need of an image.
    fn needs(&self) -> Needs {
        Needs::Pixels
    }
    /// Returns whether its tokenizers learn from the train split, or are drawn by the fit seed (`fit` and `load`), or neither (`build`).
    fn learns(&self) -> bool {
        false
    }
    /// Returns whether building a tokenizer starts a program that the suite names. Then [`validate`](Self::validate) and
    /// [`plan`](Self::plan) start nothing.
    fn starts_programs(&self) -> bool {
        false
    }
    /// Checks `with` as far as possible without images, so that a wrong suite is refused before any work.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()>;
    /// Whether a tokenizer with the fields `with` has targets of the val split, which `bag_of_tokens` needs. Default: it has.
    fn has_val(&self, _with: &Config) -> bool {
        true
    }
    /// Builds the features from which its tokenizers compute targets; `None` for a kind without features. Default: the features of the
    /// field `features:`.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn features(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Option<Box<dyn Features>>> {
        let features = with.get("features");
        features
            .map(|at| cx.registry.build_features(&at, cx))
            .transpose()
    }
    /// Returns the side in pixels of rendered images; see [`FeaturesFactory::render_side`]. Default: that of the field `features:`.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong fields.
    fn render_side(&self, with: &Config, registry: &Registry) -> Result<Option<usize>> {
        let features = with.get("features");
        features.map_or(Ok(None), |at| registry.render_side(&at))
    }
    /// Predicts the target and the cost of `with`. The default builds the tokenizer. For a kind that learns, the default has an unknown
    /// number of codes and costs the features of every image once; such a kind should override it.
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
                    memory: 0.0,
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
    /// Returns a digest of everything besides images and seed that determines the result of [`fit`](Self::fit): the fields and the
    /// fingerprint of the features. The default digests the fields only, which is not enough for a kind that reads files.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let _ = cx;
        Ok(Fingerprint::of(&[with.value().to_string().as_bytes()]))
    }
    /// Builds a tokenizer of a kind that does not learn.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong fields or files, [`Error::Missing`] if a file does not exist, [`Error::Unsupported`] if this kind
    /// must be fitted.
    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let _ = (with, cx);
        Err(Error::Unsupported {
            kind: self.kind(),
            what: "build without fit",
        })
    }
    /// Fits a tokenizer to the train split.
    ///
    /// # Errors
    /// As [`build`](Self::build), and [`Error::Fit`] if the data do not allow a fit.
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
    /// Loads a fitted tokenizer from a folder that [`Tokenizer::save`] wrote.
    ///
    /// # Errors
    /// If the folder does not belong to this kind.
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
    /// Returns a registry without factories.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds a tokenizer factory; replaces an earlier one of the same kind.
    #[must_use]
    pub fn with(mut self, factory: impl TokenizerFactory + 'static) -> Self {
        self.tokenizers.insert(factory.kind(), Box::new(factory));
        self
    }

    /// Adds a features factory; replaces an earlier one of the same kind.
    #[must_use]
    pub fn with_features(mut self, factory: impl FeaturesFactory + 'static) -> Self {
        self.features.insert(factory.kind(), Box::new(factory));
        self
    }

    /// Returns all tokenizer factories, by kind.
    pub fn tokenizers(&self) -> impl Iterator<Item = &dyn TokenizerFactory> {
        self.tokenizers.values().map(AsRef::as_ref)
    }

    /// Returns all features factories, by kind.
    pub fn features(&self) -> impl Iterator<Item = &dyn FeaturesFactory> {
        self.features.values().map(AsRef::as_ref)
    }

    /// Returns the tokenizer factory of `kind`. `at` is the piece of the suite that names it, for the error.
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

    /// Builds the features `at` (`{kind: hog, ...}`) and checks their grid against the model's.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind, wrong fields, or a grid other than the suite's.
    pub fn build_features(&self, at: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let (factory, with) = self.features_factory(at)?;
        let features = factory.build(&with, cx)?;
        if features.grid() != cx.grid {
            let message = format!(
                "has a {} grid of patches, the suite's image_size and patch_size require {}; change them or the features",
                features.grid(),
                cx.grid
            );
            return Err(at.error("", message).into());
        }
        Ok(features)
    }

    /// Returns the side in pixels of rendered images if the features `at` set it.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind or wrong fields.
    pub fn render_side(&self, at: &Config) -> Result<Option<usize>> {
        let (factory, with) = self.features_factory(at)?;
        factory.render_side(&with)
    }

    /// Returns the factory of the features `at`, and their fields.
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
