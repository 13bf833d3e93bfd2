//! Contract of ONNX engines. An engine opens a graph as a session; any number of threads may call a session at the same time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::check::Element;

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

/// A pool of objects of which each call needs one. It creates an object when all others are in use.
pub struct Pool<T> {
    slots: Mutex<Slots<T>>,
    freed: Condvar,
    threads: usize,
    most: usize,
}

struct Slots<T> {
    idle: Vec<T>,
    running: usize,
}

impl<T> Pool<T> {
    /// Creates an empty pool for calls that use `threads` threads each; at most `most` calls run at a time.
    pub fn new(threads: usize, most: usize) -> Self {
        let slots = Mutex::new(Slots {
            idle: Vec::new(),
            running: 0,
        });
        Self {
            slots,
            freed: Condvar::new(),
            threads,
            most,
        }
    }

    /// Adds an idle object.
    pub fn add(&self, one: T) {
        self.locked().idle.push(one);
    }

    /// Runs `work` with an idle object, or with a new one from `make`. Calls that use one thread never wait for each other. Otherwise
    /// at most as many calls run as fit into the caller's rayon pool. A running call waits for nothing else, so there is no deadlock.
    ///
    /// # Errors
    /// The errors of `make` and `work`.
    pub fn with<R>(
        &self,
        make: impl FnOnce() -> Result<T, String>,
        work: impl FnOnce(&mut T) -> Result<R, String>,
    ) -> Result<R, String> {
        let room = match self.threads {
            1 => usize::MAX,
            threads => (rayon::current_num_threads() / threads).max(1),
        };
        let room = room.min(self.most);
        let slots = self.freed.wait_while(self.locked(), |s| s.running >= room);
        let mut slots = slots.unwrap_or_else(PoisonError::into_inner);
        slots.running += 1;
        let idle = slots.idle.pop();
        drop(slots);
        let made = idle.map_or_else(make, Ok);
        let (one, result) = match made {
            Ok(mut one) => {
                let result = work(&mut one);
                (Some(one), result)
            }
            Err(error) => (None, Err(error)),
        };
        let mut slots = self.locked();
        slots.running -= 1;
        slots.idle.extend(one);
        drop(slots);
        self.freed.notify_one();
        result
    }

    fn locked(&self) -> MutexGuard<'_, Slots<T>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the first line of an engine's error; the rest is its call stack.
pub fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
