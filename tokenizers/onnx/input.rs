//! Fields of an ONNX row, and the context in which its graph is opened.

use std::num::NonZeroUsize;

pub use crate::input::{Input, MOST_IMAGES, Scale};
use crate::registry::BuildContext;

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
    /// [`BuildContext::interrupted`].
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> From<&BuildContext<'a>> for Context<'a> {
    fn from(cx: &BuildContext<'a>) -> Self {
        Self {
            image_size: cx.image_size,
            finest: cx.finest,
            fetch: cx.fetch,
            on_device: cx.device.is_some(),
            progress: cx.progress,
            interrupted: cx.interrupted,
        }
    }
}
