//! What runs ONNX graphs: an engine opens a graph as a session, and sessions are called by any number of threads at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::check::Element;

/// What a graph gives for a batch of images.
#[derive(Clone, Debug)]
pub enum Output {
    /// Integers: ids.
    Ids(Vec<i64>),
    /// Numbers: features.
    Values(Vec<f32>),
}

/// A graph that has passed the checks, for an engine to open.
pub struct Source {
    /// The file.
    pub bytes: Vec<u8>,
    /// Files beside it that it takes weights from, by the paths that it writes.
    pub external: Vec<(String, Vec<u8>)>,
    /// Name of the input.
    pub input: String,
    /// Name of the output.
    pub output: String,
    /// What the output holds.
    pub element: Element,
}

/// Opens graphs.
pub trait Engine: Send + Sync {
    /// With the version, "onnxruntime 1.24.4" or "rten 0.27": it is part of the key of every result.
    fn name(&self) -> &str;

    /// Images per call where neither suite nor graph says it.
    fn batch(&self) -> usize;

    /// Whether an image's bits may depend on how many images a call has, so that every call must have the same number.
    fn pads(&self) -> bool;

    /// Opens a graph, whose calls take `threads` threads each.
    ///
    /// # Errors
    /// Why the engine does not take it.
    fn open(&self, source: Source, threads: usize) -> Result<Box<dyn Session>, String>;
}

/// A graph that is open.
pub trait Session: Send + Sync {
    /// The output's shape and numbers for `pixels`, images `[batch, 3, side, side]`.
    ///
    /// # Errors
    /// What the engine says.
    fn run(&self, shape: [usize; 4], pixels: &[f32]) -> Result<(Vec<usize>, Output), String>;
}

/// What calls need one each of, made when all are in use.
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
    /// Of calls that take `threads` threads each, never more than `most` at a time.
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

    /// Puts one in that is not in use.
    pub fn add(&self, one: T) {
        self.locked().idle.push(one);
    }

    /// Does `work` with one that nobody uses, or that `make` makes. Calls of one thread never wait for each other. Of several,
    /// as many run as the caller's pool has room for; whoever runs one does nothing else meanwhile, so that waiting ends.
    ///
    /// # Errors
    /// Those of `make` and `work`.
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

/// The first line of what an engine says: the rest is its call stack.
pub fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
