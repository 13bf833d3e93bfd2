//! The contract of tokenizers.
//!
//! [`Features`] map images to values per patch; a [`Tokenizer`] maps images to *targets* per patch, ids or values. Each has a
//! stateless factory ([`registry`](crate::registry)). To add a tokenizer, implement
//! [`TokenizerFactory`](crate::TokenizerFactory) and [`Tokenizer`], and register the factory in one line.

use std::fmt;
use std::path::Path;

use candle_core::Tensor;
use serde::Serialize;
use tessera_kernels::device::launcher::{Device, Memory};
pub use tessera_models::{MOST_CODES, MOST_GROUPS};
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
    /// Returns `rows * cols`.
    pub fn num_patches(self) -> usize {
        self.rows * self.cols
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// Digest of everything that determines a result; equal digests mean equal results.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// Computes the digest (BLAKE3, hex) of `parts` in order. Lengths are hashed too, so `["ab"]` differs from `["a", "b"]`.
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

/// What a tokenizer needs of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The pixels: any crop can be tokenized.
    Pixels,
    /// The index (for a file of ids): only the evaluation view and its mirror image can be tokenized.
    SampleIds,
    /// The label ([`BuildContext::labels`](crate::BuildContext::labels)): any crop can be tokenized. [`Facts::saw_labels`] must be true.
    Labels,
}

/// The labels of a dataset's images. Only kinds with [`Needs::Labels`] receive them.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Number of classes.
    pub classes: usize,
    /// Label of each train image, in scan order.
    pub train: &'a [u32],
    /// Label of each val image, in scan order.
    pub val: &'a [u32],
}

/// Facts about a tokenizer for the tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Whether its training used labels (of any dataset); tables then add a footnote.
    pub saw_labels: bool,
    /// Engine that runs it, if not Tessera itself: "onnxruntime 1.24.4", "rten 0.27.0".
    pub engine: Option<String>,
    /// Passes over the train split that fitted its codebook.
    pub kmeans_epochs: Option<usize>,
    /// Origin of its model: from the manifest (source, licence, weights, sha256), or the `checkpoint` and what of it was taken.
    pub model: Option<serde_json::Value>,
}

impl Facts {
    /// Field of [`model`](Self::model) that says what of a checkpoint was taken.
    pub const CHECKPOINT: &str = "checkpoint";

    /// Returns what of a checkpoint was taken, if its features come from one.
    pub fn checkpoint(&self) -> Option<&str> {
        self.model.as_ref()?.get(Self::CHECKPOINT)?.as_str()
    }
}

/// The train split under the evaluation transform, by index. Images are decoded on demand and are never all in memory.
pub trait ImageStream: Sync {
    /// Returns the number of images.
    fn len(&self) -> usize;
    /// Returns whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the images `indices` as a view.
    ///
    /// # Errors
    /// If an image cannot be decoded.
    fn view(&self, indices: &[usize]) -> Result<ViewBuf>;
}

/// Maps images to values per patch.
///
/// Deterministic: the same view gives the same values, alone or in a batch, on any number of threads (for ONNX engines: at their
/// fixed batch size).
pub trait Features: Send + Sync {
    /// Returns the patch grid of the values, which must equal the model's.
    fn grid(&self) -> Grid;
    /// Returns the number of values per patch.
    fn dim(&self) -> usize;
    /// Returns a digest of everything that affects the values.
    fn fingerprint(&self) -> Fingerprint;
    /// Computes the values of `view`'s images.
    ///
    /// # Shapes
    /// Returns `[batch, num_patches, dim]`, f32, contiguous, patches in row-major order of the grid.
    ///
    /// # Errors
    /// If rendering or the engine fails.
    fn extract(&self, view: &View<'_>) -> Result<Tensor>;
    /// Returns the device implementation, if there is one.
    fn on_device(&self) -> Option<&dyn DeviceFeatures> {
        None
    }
    /// Draws the patch with `values` (`[dim]`), if the features can be inverted (raw pixels).
    fn picture(&self, values: &[f32]) -> Option<Image> {
        let _ = values;
        None
    }
    /// Returns facts for the tables.
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// [`Features`] that kernels compute from pixels, so that only images are copied to the device.
pub trait DeviceFeatures: Send + Sync {
    /// Computes the values of [`Features::extract`], up to rounding, and leaves them on the device.
    ///
    /// # Shapes
    /// Returns `[batch, num_patches, dim]`, f32.
    ///
    /// # Errors
    /// As [`Features::extract`], and if the device fails.
    fn extract(&self, device: &Device, view: &View<'_>) -> Result<Memory>;
}

/// Maps images to targets per patch. Deterministic like [`Features`].
pub trait Tokenizer: Send + Sync {
    /// Returns the type of the targets: ids, values or codes of groups, and how many.
    fn target(&self) -> TargetSpec;
    /// Returns the patch grid of the targets, which must equal the model's.
    fn grid(&self) -> Grid;
    /// Returns a digest of everything that affects the targets, including a fitted codebook.
    fn fingerprint(&self) -> Fingerprint;
    /// Computes the targets of `view`'s images.
    ///
    /// # Shapes
    /// Returns ids `[batch, num_patches]` u32, each in `0..codebook_size`, values `[batch, num_patches, dim]` f32, or codes
    /// `[batch, num_patches, groups]` u32, each below its group's size; patches in row-major order of the grid.
    ///
    /// # Errors
    /// If rendering or the engine fails, or if the tokenizer has no targets for the view ([`Needs::SampleIds`]).
    fn tokenize(&self, view: &View<'_>) -> Result<Targets>;
    /// Writes the result of `fit` into the existing folder `state`, for example `codebook.safetensors`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    fn save(&self, state: &Path) -> Result<()> {
        let _ = state;
        Ok(())
    }
    /// Returns a mapping with measurements of the fit for its record in the store.
    fn fit_report(&self) -> Option<serde_json::Value> {
        None
    }
    /// Checks at the end of a pass over images that the tokenizer still gives the targets that it gave at its start.
    ///
    /// # Errors
    /// If it gives others, or fails.
    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
    /// Returns whether the tokenizer has been found to give other targets than at its start: what was computed from them is of no use.
    fn has_changed(&self) -> bool {
        false
    }
    /// Returns whether targets are looked up rather than computed, so that caching them gains nothing.
    fn looks_up(&self) -> bool {
        false
    }
    /// Draws the codebook, if its codes can be drawn: `codebook.png` of a run.
    fn picture(&self) -> Option<Image> {
        None
    }
    /// Returns facts for the tables.
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// Target and cost of a configuration, known before any image is read. `--dry-run` and the list of a run's stages use it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Target of each patch; `None` for ids whose number is known only after the fit.
    pub target: Option<TargetSpec>,
    /// [`Tokenizer::looks_up`].
    pub looks_up: bool,
    /// Cost of the fit; `None` if there is none.
    pub fit: Option<FitCost>,
}

impl Plan {
    /// Returns whether targets are ids or codes, to which training-free metrics apply.
    pub fn gives_ids(&self) -> bool {
        self.target.is_none_or(TargetSpec::is_discrete)
    }
}

/// Cost of [`TokenizerFactory::fit`](crate::TokenizerFactory::fit).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitCost {
    /// Number of extractions of an image's features.
    pub images: f64,
    /// Floating-point operations besides the features.
    pub flops: f64,
    /// Bytes of the features that are in memory at a time.
    pub memory: f64,
}
