//! Objects that calls share: sessions of an engine, child processes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A running call, with its object. Its end frees both, also after a panic: other calls wait for it.
struct Call<'a, T> {
    pool: &'a Pool<T>,
    one: Option<T>,
}

impl<T> Drop for Call<'_, T> {
    fn drop(&mut self) {
        let mut slots = self.pool.locked();
        slots.running -= 1;
        slots.idle.extend(self.one.take());
        drop(slots);
        self.pool.freed.notify_one();
    }
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
    pub fn with<R, E>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
        work: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
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
        let mut call = Call {
            pool: self,
            one: None,
        };
        let one = call.one.insert(idle.map_or_else(make, Ok)?);
        work(one)
    }

    /// Runs `work` with every idle object. Calls wait meanwhile.
    ///
    /// # Errors
    /// The first error of `work`.
    pub fn each_idle<E>(&self, work: impl FnMut(&mut T) -> Result<(), E>) -> Result<(), E> {
        self.locked().idle.iter_mut().try_for_each(work)
    }

    fn locked(&self) -> MutexGuard<'_, Slots<T>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
