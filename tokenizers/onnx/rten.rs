//! rten, the embedded engine. It computes in f32 and i32 whatever the graph's types are.

use std::any::Any;
use std::cell::RefCell;
use std::sync::{Arc, Once};

use ::rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_onnx::onnx::{DataLocation, DataType, GraphProto, ModelProto, TensorProto};
use rten_tensor::{AsView, Layout, Tensor};

use super::check::Element;
use super::engine::{Engine, Output, Session, Source, first_line};
use super::graph::{Node, Onnx};
use crate::pool::Pool;

/// Name with the full version in Cargo.lock (checked by a test), because the crate does not export its version.
const NAME: &str = "rten 0.27.0";

/// Prefix of the names of its threads.
const THREADS: &str = "rten";

/// Stack size in bytes of a thread that opens or calls a graph: rten walks chains of nodes recursively. Unused stack takes no memory.
const STACK: usize = 256 << 20;

/// The engine. One loaded graph serves all threads.
pub struct Rten;

impl Rten {
    /// Starts the engine. From now on a panic in its threads is not printed, because [`apart`] returns it as an error.
    pub fn start() -> Self {
        static QUIET: Once = Once::new();
        QUIET.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let thread = std::thread::current();
                if !thread.name().is_some_and(|name| name.starts_with(THREADS)) {
                    before(panic);
                }
            }));
        });
        Self
    }
}

impl Engine for Rten {
    fn name(&self) -> &str {
        NAME
    }

    fn batch(&self) -> usize {
        16
    }

    fn pads(&self) -> bool {
        false
    }

    fn open(&self, source: Source, threads: usize) -> Result<Box<dyn Session>, String> {
        checked(&source)?;
        let (input, output) = (source.input.clone(), source.output.clone());
        let element = source.element;
        let model = apart(|| {
            let bytes = prepared(source)?;
            let mut options = ModelOptions::with_all_ops();
            let loaded = options.prepack_weights(true).load(bytes);
            loaded.map_err(|e| first_line(&e))
        })?;
        let node = |name: &str| model.node_id(name).map_err(|e| first_line(&e));
        Ok(Box::new(Opened {
            input: node(&input)?,
            output: node(&output)?,
            element,
            model,
            threads,
            pools: Pool::new(threads, usize::MAX),
        }))
    }
}

/// A loaded graph.
struct Opened {
    model: Model,
    input: NodeId,
    output: NodeId,
    element: Element,
    threads: usize,
    pools: Pool<Arc<ThreadPool>>,
}

impl Session for Opened {
    fn run(&self, shape: [usize; 4], pixels: &[f32]) -> Result<(Vec<usize>, Output), String> {
        let images = Value::from_shape(shape, pixels.to_vec()).map_err(|e| first_line(&e))?;
        let make = || Ok(Arc::new(ThreadPool::with_num_threads(self.threads)));
        let value = self.pools.with(make, |pool| {
            let options = RunOptions::default().with_thread_pool(Some(Arc::clone(pool)));
            apart(|| {
                let inputs = vec![(self.input, images.into())];
                let outputs = self.model.run_n(inputs, [self.output], Some(options));
                outputs.map_err(|e| first_line(&e))
            })
        })?;
        let [value] = value;
        match value {
            Value::FloatTensor(values) => {
                Ok((values.shape().to_vec(), Output::Values(values.to_vec())))
            }
            Value::Int32Tensor(ids) => Ok(self.ids(&ids)),
            Value::Int8Tensor(ids) => Ok(self.ids(&ids)),
            Value::UInt8Tensor(ids) => Ok(self.ids(&ids)),
            _ => Err("the output is not a tensor".into()),
        }
    }
}

impl Opened {
    fn ids<T: Copy + Into<i32>>(&self, ids: &Tensor<T>) -> (Vec<usize>, Output) {
        let narrow = |id: &T| narrowed((*id).into(), self.element);
        let all = ids.iter().map(narrow).collect();
        (ids.shape().to_vec(), Output::Ids(all))
    }
}

/// Converts an id to the graph's own integer type, which [`widen`] replaced.
fn narrowed(id: i32, element: Element) -> i64 {
    match element {
        Element::Ids(4) => (id as u16).into(),
        Element::Ids(5) => (id as i16).into(),
        Element::Ids(12) => (id as u32).into(),
        // A negative number stands for a u64 beyond i64. ONNX Runtime's ids become `i64::MAX` too.
        Element::Ids(13) => u64::try_from(id).map_or(i64::MAX, u64::cast_signed),
        _ => id.into(),
    }
}

/// Refuses graphs that rten silently computes differently from the standard.
fn checked(source: &Source) -> Result<(), String> {
    let onnx = Onnx::read(&source.bytes)?;
    let nodes = onnx.reached(&source.output);
    let opset = onnx.opsets.iter().find(|(domain, _)| domain.is_empty());
    let opset = opset.map_or(i64::MAX, |(_, version)| *version);
    match nodes.iter().find(|node| misread(node, opset)) {
        None => Ok(()),
        Some(node) => Err(format!(
            "only ONNX Runtime computes this graph's {} of opset {opset} correctly; install it, or convert the graph to opset 13 or \
             newer with explicit padding",
            node.operator
        )),
    }
}

/// Returns whether rten misreads the node. It reads `SAME_LOWER` as `SAME_UPPER`. Before opset 13 a softmax flattens all axes from
/// `axis` on, but rten takes `axis` alone. Both agree on the last axis, which is recognised only if it is -1, because the rank is not known.
fn misread(node: &Node<'_>, opset: i64) -> bool {
    let lower = node.attribute("auto_pad").and_then(|a| a.text) == Some(b"SAME_LOWER");
    let flattens = ["Softmax", "LogSoftmax", "Hardmax"].contains(&node.operator) && opset < 13;
    lower || (flattens && node.number("axis").unwrap_or(1) != -1)
}

/// Returns the file for rten: external weights are embedded, because rten accepts only some names of external files, and unsupported
/// casts are widened.
fn prepared(source: Source) -> Result<Vec<u8>, String> {
    let wide = matches!(source.element, Element::Ids(4 | 5 | 12 | 13));
    if source.external.is_empty() && !wide {
        return Ok(source.bytes);
    }
    let mut model = ModelProto::parse_buf(&source.bytes).map_err(|e| first_line(&e))?;
    if let Some(graph) = &mut model.graph {
        put_in(graph, &source.external)?;
        if wide {
            widen(graph, &source.output);
        }
    }
    model.write_buf().map_err(|e| first_line(&e))
}

/// Embeds the external weights in the graph.
fn put_in(graph: &mut GraphProto, files: &[(String, Vec<u8>)]) -> Result<(), String> {
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let mut tensors: Vec<&mut TensorProto> = graph.initializer.iter_mut().collect();
    for attribute in attributes {
        if let Some(inner) = &mut attribute.g {
            put_in(inner, files)?;
        }
        tensors.extend(&mut attribute.t);
    }
    for tensor in tensors {
        if tensor.data_location.take() != Some(DataLocation::EXTERNAL) {
            continue;
        }
        let entries = std::mem::take(&mut tensor.external_data);
        let entry = |key: &str| {
            let entry = entries.iter().find(|e| e.key.as_deref() == Some(key))?;
            entry.value.as_deref()
        };
        let number = |key: &str| entry(key).and_then(|text| text.parse::<usize>().ok());
        let file = files.iter().find(|file| entry("location") == Some(&file.0));
        let (_, bytes) = file.ok_or("a tensor does not name its external file")?;
        let start = number("offset").unwrap_or_default();
        let end = number("length").map_or(Some(bytes.len()), |length| start.checked_add(length));
        let part = end.and_then(|end| bytes.get(start..end));
        let part = part.ok_or("a tensor ends beyond the end of its file")?;
        tensor.raw_data = Some(RefCell::new(part.to_vec()));
    }
    Ok(())
}

/// Replaces the last cast before the ids by a cast to i64 (rten's i32), because rten refuses casts to 16-bit, u32 and u64 integers.
/// [`narrowed`] then converts the ids.
fn widen(graph: &mut GraphProto, output: &str) {
    const SHAPING: &[&str] = &[
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
    ];
    let mut name = output.to_owned();
    // The bound ends the loop if the graph is cyclic.
    for _ in 0..graph.node.len() {
        let mut nodes = graph.node.iter_mut();
        let Some(node) = nodes.find(|node| node.output.contains(&name)) else {
            return;
        };
        let operator = node.op_type.as_deref().unwrap_or_default();
        if operator == "Cast" {
            let mut attributes = node.attribute.iter_mut();
            let to = attributes.find(|a| a.name.as_deref() == Some("to"));
            to.into_iter()
                .for_each(|to| to.i = Some(DataType::INT64.0.into()));
        }
        match node.input.first() {
            Some(input) if SHAPING.contains(&operator) => name.clone_from(input),
            _ => return,
        }
    }
}

/// Runs `work` on a new thread and turns its panic into an error. A rayon worker that waits for another pool starts further tasks of
/// its own pool, so without the thread calls would nest.
fn apart<R: Send>(work: impl FnOnce() -> Result<R, String> + Send) -> Result<R, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(THREADS.into())
            .stack_size(STACK);
        let running = thread.spawn_scoped(scope, work);
        let running = running.map_err(|e| format!("cannot start a thread: {e}"))?;
        running.join().unwrap_or_else(|panic| Err(describe(&panic)))
    })
}

/// Returns the error message for a panic.
fn describe(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic").lines().next();
    format!(
        "panicked ({}); is the file damaged?",
        text.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::Checked;
    use super::super::embedded;
    use super::*;

    #[test]
    fn the_name_has_the_version_of_the_lock_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(path).unwrap();
        let version = NAME.strip_prefix("rten ").unwrap();
        assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{version}\"")));
        for gone in ["ort-tract", "tract-core"] {
            assert!(!lock.contains(&format!("name = \"{gone}\"")), "{gone}");
        }
    }

    #[test]
    fn a_panic_comes_back_as_an_error() {
        Rten::start();
        let error = apart(|| -> Result<(), String> { panic!("index 3 out of bounds") });
        let error = error.unwrap_err();
        assert!(
            error.contains("index 3 out of bounds") && error.contains("damaged"),
            "{error}"
        );
        assert_eq!(apart(|| Ok(5)), Ok(5));
    }

    /// Opens and runs the graph in `file`.
    fn through(file: &[u8]) -> Result<(), String> {
        let checked = Checked::of(file, None)?;
        let source = Source {
            bytes: file.to_vec(),
            external: Vec::new(),
            input: checked.input,
            output: checked.output,
            element: checked.element,
        };
        let opened = Rten::start().open(source, 1)?;
        let side = checked.side.unwrap_or(32).min(64);
        let pixels = vec![0.5; 3 * side * side];
        opened.run([1, 3, side, side], &pixels).map(drop)
    }

    #[test]
    fn a_damaged_graph_is_an_error_at_most() {
        let (mut tried, mut refused) = (0, 0);
        for name in ["mosaic_vq", "mosaic_ssl"] {
            let whole = embedded::model(name).unwrap().bytes;
            through(whole).unwrap();
            // Names, operators and shapes are at the two ends of the file, weights in between.
            let ends = (0..1500).chain(whole.len() - 500..whole.len());
            for (at, bit) in ends.step_by(7).zip((0..8).cycle()) {
                let mut damaged = whole.to_vec();
                damaged[at] ^= 1 << bit;
                tried += 1;
                refused += usize::from(through(&damaged).is_err());
                refused += usize::from(through(&whole[..at]).is_err());
            }
        }
        assert!(refused > tried, "{refused} of {tried}");
    }

    #[test]
    fn ids_are_narrowed_to_the_graphs_type() {
        for (id, kind, expected) in [
            (70_000, 4, 4464),
            (-1, 4, 65_535),
            (70_000, 5, 4464),
            (40_000, 5, -25_536),
            (-1, 12, 4_294_967_295),
            (-1, 13, i64::MAX),
            (7, 13, 7),
            (-1, 7, -1),
        ] {
            assert_eq!(narrowed(id, Element::Ids(kind)), expected, "{id} {kind}");
        }
    }
}
