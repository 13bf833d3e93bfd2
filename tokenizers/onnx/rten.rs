//! rten, the engine that is part of the program. It computes in f32 and i32 whatever the graph's own types are.

use std::any::Any;
use std::sync::{Arc, Once};

use ::rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::{AsView, Layout, Tensor};

use super::check::Element;
use super::engine::{Engine, Output, Pool, Session, Source, first_line};
use super::graph::{Attribute, Node, Onnx};

/// As in Cargo.lock, which a test holds it against: the crate does not say it.
const NAME: &str = "rten 0.27";

/// What its threads' names begin with.
const THREADS: &str = "rten";

/// Stack of a thread that opens or calls a graph: rten walks chains of nodes recursively. Only what is used takes memory.
const STACK: usize = 256 << 20;

/// The engine. One loaded graph serves all threads.
pub struct Rten;

impl Rten {
    /// Starts it: from now on a panic in its threads is not printed, since it comes back as an error.
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
        let bytes = prepared(source.bytes, &source.output, source.element)?;
        let model = apart(|| {
            let mut options = ModelOptions::with_all_ops();
            for (path, bytes) in &source.external {
                options.external_data_static(path, bytes);
            }
            let loaded = options.prepack_weights(true).load(bytes);
            loaded.map_err(|e| first_line(&e))
        })?;
        let node = |name: &str| model.node_id(name).map_err(|e| first_line(&e));
        Ok(Box::new(Opened {
            input: node(&source.input)?,
            output: node(&source.output)?,
            element: source.element,
            model,
            threads,
            pools: Pool::new(threads, usize::MAX),
        }))
    }
}

/// A graph that is loaded.
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
            _ => Err("the output is no tensor".into()),
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

/// An integer as the graph's own type would have it, which rten has not ([`widened`]).
fn narrowed(id: i32, element: Element) -> i64 {
    match element {
        Element::Ids(4) => (id as u16).into(),
        Element::Ids(5) => (id as i16).into(),
        Element::Ids(12) => (id as u32).into(),
        // A negative number is beyond i64, as ONNX Runtime's is.
        Element::Ids(13) => u64::try_from(id).map_or(i64::MAX, u64::cast_signed),
        _ => id.into(),
    }
}

/// The file as rten is given it.
///
/// # Errors
/// What rten would read otherwise than the standard says, without a word.
fn prepared(mut bytes: Vec<u8>, output: &str, element: Element) -> Result<Vec<u8>, String> {
    let onnx = Onnx::read(&bytes)?;
    let nodes = onnx.reached(output);
    let opset = onnx.opsets.iter().find(|(domain, _)| domain.is_empty());
    let opset = opset.map_or(i64::MAX, |(_, version)| *version);
    if let Some(node) = nodes.iter().find(|node| misread(node, opset)) {
        return Err(format!(
            "a {} of opset {opset} as it stands in this graph is computed right by ONNX Runtime only; install that, or convert \
             the graph to opset 13 or newer, with padding in numbers",
            node.operator
        ));
    }
    if let Some(at) = widened(&onnx, output, element, &bytes) {
        bytes[at] = INT64;
    }
    Ok(bytes)
}

/// Whether rten takes the node for another: it reads `SAME_LOWER` as `SAME_UPPER`, and a softmax of before opset 13, which flattened
/// all axes from its own on, as one over its own (the same where that is the last, which only a rank could say if it is not -1).
fn misread(node: &Node<'_>, opset: i64) -> bool {
    let lower = node.attribute("auto_pad").and_then(|a| a.text) == Some(b"SAME_LOWER");
    let flattens = ["Softmax", "LogSoftmax", "Hardmax"].contains(&node.operator) && opset < 13;
    lower || (flattens && matches!(node.number("axis").unwrap_or(1), 0 | 1))
}

const INT64: u8 = 7;

/// rten has no 16-bit, u32 and u64 integers, and refuses a cast to them. Where ids end in one, it is told to cast to i64 (its i32)
/// instead: the byte of the file that says so.
fn widened(onnx: &Onnx<'_>, output: &str, element: Element, file: &[u8]) -> Option<usize> {
    const SHAPING: &[&str] = &[
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
    ];
    let Element::Ids(kind @ (4 | 5 | 12 | 13)) = element else {
        return None;
    };
    let mut name = output;
    // No longer than the graph, which may be a circle.
    for _ in &onnx.graph.nodes {
        let maker = |node: &&Node<'_>| node.outputs.contains(&name);
        let node = onnx.graph.nodes.iter().find(maker)?;
        if node.operator == "Cast" {
            return match node.attribute("to")? {
                // One byte: a number below 128.
                Attribute {
                    number: Some((to, [byte])),
                    ..
                } if *to == kind => {
                    Some(std::ptr::from_ref(byte) as usize - file.as_ptr() as usize)
                }
                _ => None,
            };
        }
        if !SHAPING.contains(&node.operator) {
            return None;
        }
        name = node.inputs.first()?;
    }
    None
}

/// Does `work` on a thread of its own. A caller may be one of rayon's workers: while such a one waits for another pool it takes up
/// more of its own work, so that calls would pile up within each other. And a panic ends there.
fn apart<R: Send>(work: impl FnOnce() -> Result<R, String> + Send) -> Result<R, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(THREADS.into())
            .stack_size(STACK);
        let running = thread.spawn_scoped(scope, work);
        let running = running.map_err(|e| format!("no thread to run it: {e}"))?;
        running.join().unwrap_or_else(|panic| Err(told(&panic)))
    })
}

/// What a panic said.
fn told(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic").lines().next();
    format!(
        "breaks it off ({}); is the file damaged?",
        text.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_has_the_version_of_the_lock_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(path).unwrap();
        let version = NAME.strip_prefix("rten ").unwrap();
        assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{version}.")));
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

    #[test]
    fn ids_are_narrowed_as_the_graphs_type_is() {
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
