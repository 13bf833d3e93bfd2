//! rten, the embedded engine. It computes in f32 and i32 whatever the graph's types are.

use std::any::Any;
use std::sync::{Arc, Once};

use ::rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::{AsView, Layout, Tensor};

use super::check::{Checked, Element};
use super::engine::{Engine, Output, Session, Source, first_line};
use super::graph::Onnx;
use super::mends;
use super::misread::checked;
use super::prepare::prepared;
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

    fn version(&self, file: &[u8], graph: &Checked) -> String {
        // The file has been read before, so this does not fail.
        let onnx = Onnx::read(file).unwrap_or_default();
        mends::version(&onnx, &graph.output)
    }

    fn open(&self, source: Source, threads: usize) -> Result<Box<dyn Session>, String> {
        let opened = Opened::of(source, threads);
        let opened = opened.map_err(|message| advised(&message))?;
        Ok(Box::new(opened))
    }
}

/// Adds the remedy to a refusal: ONNX Runtime has all operators of the standard.
fn advised(message: &str) -> String {
    if message.contains("ONNX Runtime") {
        return message.to_owned();
    }
    format!(
        "{message}; ONNX Runtime may run the graph: pip install onnxruntime (1.24 or newer) in an active environment, or set \
         ORT_DYLIB_PATH"
    )
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

impl Opened {
    fn of(source: Source, threads: usize) -> Result<Self, String> {
        checked(&Onnx::read(&source.bytes)?, &source.output)?;
        let (input, output) = (source.input.clone(), source.output.clone());
        let element = source.element;
        let model = apart(|| {
            let bytes = prepared(source)?;
            let mut options = ModelOptions::with_all_ops();
            let loaded = options.prepack_weights(true).load(bytes);
            loaded.map_err(|e| first_line(&e))
        })?;
        let node = |name: &str| model.node_id(name).map_err(|e| first_line(&e));
        Ok(Self {
            input: node(&input)?,
            output: node(&output)?,
            element,
            model,
            threads,
            pools: Pool::new(threads, usize::MAX),
        })
    }
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
        });
        let value = value.map_err(|message| advised(&message))?;
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

/// Converts an id to the graph's own integer type, which [`prepared`] replaced.
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
        "rten panicked ({}): the file is damaged, or rten has a fault",
        text.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests;
