//! What an ONNX row says, and where its graph is opened.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry::BuildContext;
use crate::view::{IMAGENET_MEAN, IMAGENET_STD, InputSpec};

/// How the graph wants its pixels.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of its input, pixels; the manifest's, else the graph's own where it is fixed, else the suite's image_size.
    pub side: Option<usize>,
    /// Channel c of a byte x becomes `(x/255 - mean[c]) / std[c]`: `imagenet`, `zero-one`, `minus-one-one`, `dvae`, or the numbers;
    /// the manifest's when absent, and an error without one: a wrong scale gives wrong targets and no other sign.
    pub scale: Option<Scale>,
}

/// Scaling of pixels.
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
        mean: [f32; 3],
        /// Divided by.
        std: [f32; 3],
    },
}

impl Scale {
    /// The pixels of a view for an input of `side` pixels.
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
