//! Contract of ONNX engines. An engine opens a graph as a session; any number of threads may call a session at the same time.

use super::check::{Checked, Element};

/// Output of a graph for a batch of images.
#[derive(Clone, Debug)]
pub enum Output {
    /// Integers: ids.
    Ids(Vec<i64>),
    /// Floating-point numbers: features.
    Values(Vec<f32>),
}

/// A graph that has passed the checks and that an engine can open.
pub struct Source {
    /// Content of the file.
    pub bytes: Vec<u8>,
    /// External weight files: path as written in the graph, and content.
    pub external: Vec<(String, Vec<u8>)>,
    /// Name of the input.
    pub input: String,
    /// Name of the output.
    pub output: String,
    /// Element type of the output.
    pub element: Element,
}

/// Opens graphs.
pub trait Engine: Send + Sync {
    /// Name and version, "onnxruntime 1.24.4" or "rten 0.27.0"; part of the store key of every result.
    fn name(&self) -> &str;

    /// Images per call if neither the suite nor the graph sets the number.
    fn batch(&self) -> usize;

    /// Whether an image's output bits may depend on the batch size, so that every call must have the same size.
    fn pads(&self) -> bool;

    /// Returns a text that changes when the engine's results for the graph in the checked `file` do, although [`name`](Self::name)
    /// stays; part of the fingerprint.
    fn version(&self, _file: &[u8], _graph: &Checked) -> String {
        String::new()
    }

    /// Whether a graph is first tried in a process of its own.
    fn guarded(&self) -> bool {
        true
    }

    /// Opens a graph whose calls use `threads` threads each.
    ///
    /// # Errors
    /// Why the engine cannot open the graph.
    fn open(&self, source: Source, threads: usize) -> Result<Box<dyn Session>, String>;
}

/// An open graph.
pub trait Session: Send + Sync {
    /// Returns the output's shape and values for `pixels`, images of `shape` `[batch, 3, side, side]`.
    ///
    /// # Errors
    /// The engine's message.
    fn run(&self, shape: [usize; 4], pixels: &[f32]) -> Result<(Vec<usize>, Output), String>;
}

/// Returns the first line of an engine's error; the rest is its call stack.
pub fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
