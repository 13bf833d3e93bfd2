//! Fields of an ONNX row, and the context in which its graph is opened.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry::BuildContext;
use crate::view::{IMAGENET_MEAN, IMAGENET_STD, InputSpec, MOST_PIXELS};

/// Size and scaling of the graph's input.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the input in pixels. Default: the manifest's side, else the graph's fixed side, else the suite's image_size.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub side: Option<usize>,
    /// Byte x of channel c becomes `(x/255 - mean[c]) / std[c]`: `imagenet`, `zero-one`, `minus-one-one`, `dvae`, or custom numbers.
    /// Default: the manifest's scale. Required without a manifest, because a wrong scale silently gives wrong targets.
    pub scale: Option<Scale>,
}

/// Scaling of pixels, per channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// ImageNet's mean and standard deviation.
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
        #[schemars(inner(range(min = -1000, max = 1000)))]
        mean: [f32; 3],
        /// Divisor after the subtraction, above 0.
        #[schemars(inner(range(min = 0, max = 1000)))]
        std: [f32; 3],
    },
}

impl Scale {
    /// Returns the spec of an input of `side` pixels with this scaling.
    pub fn spec(self, side: usize) -> InputSpec {
        let (mean, std) = match self {
            Self::Imagenet => (IMAGENET_MEAN, IMAGENET_STD),
            Self::ZeroOne => ([0.0; 3], [1.0; 3]),
            Self::MinusOneOne => ([0.5; 3], [0.5; 3]),
            Self::Dvae => ([-0.125; 3], [1.25; 3]),
            Self::Custom { mean, std } => (mean, std),
        };
        InputSpec { side, mean, std }
    }

    /// Checks custom numbers.
    ///
    /// # Errors
    /// If a mean is not finite, or a standard deviation is not finite and above 0.
    pub fn check(self) -> Result<(), String> {
        let Self::Custom { mean, std } = self else {
            return Ok(());
        };
        let divides = |std: &f32| std.is_finite() && *std > 0.0;
        if mean.iter().all(|mean| mean.is_finite()) && std.iter().all(divides) {
            return Ok(());
        }
        Err(format!(
            "found mean {mean:?} and std {std:?}, expected finite numbers, and each std above 0"
        ))
    }
}

/// Maximum images per call; all are in memory.
pub const MOST_IMAGES: usize = 4096;

/// Maximum threads per call: more than the cores of any machine.
pub const MOST_THREADS: usize = 1024;

/// Fields of a row that concern its graph, for both kinds.
pub struct Request<'a> {
    /// `onnx` or `onnx-ids`; `None` accepts both.
    pub kind: Option<&'a str>,
    /// A path, `embedded:NAME`, or a file on the Hugging Face hub.
    pub model: &'a str,
    /// Size and scaling of the input.
    pub input: &'a Input,
    /// Name of the output.
    pub output: Option<&'a str>,
    /// Images per call.
    pub batch: Option<NonZeroUsize>,
    /// Threads per call.
    pub threads: Option<NonZeroUsize>,
    /// Whether training used labels.
    pub saw_labels: Option<bool>,
}

/// Context in which a graph is opened.
pub struct Context<'a> {
    /// Side of the model's input, pixels.
    pub image_size: usize,
    /// [`BuildContext::finest`].
    pub finest: Option<usize>,
    /// [`BuildContext::fetch`].
    pub fetch: bool,
    /// Whether [`BuildContext::device`] is set.
    pub on_device: bool,
    /// [`BuildContext::progress`].
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
}

impl<'a> From<&BuildContext<'a>> for Context<'a> {
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
