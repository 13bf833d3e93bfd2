//! The contract: what a tokenizer is.
//!
//! [`Features`] turn images into values per patch; a [`Tokenizer`] turns images into *targets* per patch, ids or
//! values. Each has a stateless factory ([`registry`](crate::registry)). To add a tokenizer implement
//! [`TokenizerFactory`](crate::TokenizerFactory) and [`Tokenizer`], and register the factory in one line.

use std::fmt;
use std::path::Path;

use candle_core::Tensor;
use serde::Serialize;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_models::{TargetSpec, Targets};

use crate::Result;
use crate::view::{Image, View, ViewBuf};

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

/// The cost of [`TokenizerFactory::fit`](crate::TokenizerFactory::fit).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitCost {
    /// Images whose features are computed; an image counts once for each time.
    pub images: f64,
    /// Floating-point operations beside the features.
    pub flops: f64,
}
