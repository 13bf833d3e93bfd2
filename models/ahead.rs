//! A bounded prefetch queue: loader threads compute items before the consumer takes them.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

/// Queued items per worker (PyTorch's `prefetch_factor`).
const PREFETCH: usize = 2;

/// Returns the queue's capacity: the maximum number of items being computed or waiting. `at_once`: how many items the consumer takes
/// together; the queue can hold that many while the consumer processes the previous ones.
pub fn most(workers: usize, at_once: usize) -> usize {
    match workers {
        0 => 0,
        _ => (PREFETCH * workers).max(at_once),
    }
}

/// Calls `make` for `0..count` in order on `workers` new threads, at most `most` items ahead of those taken, while `consume` runs on this
/// thread and takes them. If `workers` is 0, [`Ahead::take`] calls `make` itself. The threads end when `consume` returns. A panic in
/// `make` is raised again in [`Ahead::take`].
///
/// The workers are their own rayon pool, so parallel code in `make` never waits for the pool that `consume` occupies.
///
/// # Errors
/// If the threads cannot be started.
pub fn ahead<T: Send, R>(
    count: usize,
    workers: usize,
    most: usize,
    make: impl Fn(usize) -> T + Sync,
    consume: impl FnOnce(&Ahead<'_, T>) -> R,
) -> Result<R, ThreadPoolBuildError> {
    let queue = Queue {
        count,
        most: if workers == 0 { 0 } else { most.max(1) },
        state: Mutex::default(),
        moved: Condvar::new(),
    };
    let all = Ahead {
        queue: &queue,
        make: &make,
    };
    if workers == 0 {
        return Ok(consume(&all));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(workers)
        .thread_name(|index| format!("loader {index}"))
        .build()?;
    Ok(pool.in_place_scope(|scope| {
        // The scope waits for the workers, so they must stop even if `consume` panics.
        let _end = EndOnDrop(&queue);
        scope.spawn_broadcast(|_, _| {
            while let Some(index) = queue.claim() {
                let made = catch_unwind(AssertUnwindSafe(|| make(index)));
                queue.put(index, made);
            }
        });
        consume(&all)
    }))
}

/// The consumer's side of the queue.
pub struct Ahead<'a, T> {
    queue: &'a Queue<T>,
    make: &'a (dyn Fn(usize) -> T + Sync),
}

impl<T> Ahead<'_, T> {
    /// Waits for item `index` and returns it. Each item can be taken once. Take items roughly in order: items not taken fill the queue, and
    /// a much higher index then waits forever.
    ///
    /// # Panics
    /// With the panic of `make`, if it panicked for this item.
    pub fn take(&self, index: usize) -> T {
        match self.queue.most {
            0 => (self.make)(index),
            _ => match self.queue.take(index) {
                Ok(made) => made,
                Err(panic) => resume_unwind(panic),
            },
        }
    }
}

type Made<T> = Result<T, Box<dyn Any + Send>>;

struct Queue<T> {
    count: usize,
    most: usize,
    state: Mutex<State<T>>,
    moved: Condvar,
}

struct State<T> {
    claimed: usize,
    taken: usize,
    made: BTreeMap<usize, Made<T>>,
    ended: bool,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            claimed: 0,
            taken: 0,
            made: BTreeMap::new(),
            ended: false,
        }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let waited = self.moved.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the queue has space and returns the next index to compute; `None` if all are claimed or the consumer has ended.
    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.ended || state.claimed == self.count {
                return None;
            }
            if state.claimed < state.taken + self.most {
                state.claimed += 1;
                return Some(state.claimed - 1);
            }
            state = self.wait(state);
        }
    }

    fn put(&self, index: usize, made: Made<T>) {
        self.lock().made.insert(index, made);
        self.moved.notify_all();
    }

    fn take(&self, index: usize) -> Made<T> {
        let mut state = self.lock();
        loop {
            if let Some(made) = state.made.remove(&index) {
                state.taken += 1;
                drop(state);
                self.moved.notify_all();
                return made;
            }
            state = self.wait(state);
        }
    }
}

struct EndOnDrop<'a, T>(&'a Queue<T>);

impl<T> Drop for EndOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ordered::in_order;
    use rayon::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    #[test]
    fn every_item_is_computed_once_and_within_the_capacity() {
        for (workers, most) in [(1, 2), (3, 6), (3, 1), (2, 20)] {
            let (making, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let make = |index: usize| {
                let begun = making.fetch_add(1, SeqCst) + 1;
                // The consumer increments `taken` only after it has taken the item.
                assert!(begun <= taken.load(SeqCst) + 1 + most);
                std::thread::sleep(Duration::from_micros(50 * (7 - index as u64 % 7)));
                index * index
            };
            let all = ahead(60, workers, most, make, |ahead| {
                let take = |index| {
                    let square = ahead.take(index);
                    taken.fetch_add(1, SeqCst);
                    square
                };
                (0..60).map(take).collect::<Vec<_>>()
            });
            assert!(all.unwrap().into_iter().eq((0..60).map(|i| i * i)));
            assert_eq!(making.load(SeqCst), 60);
        }
    }

    /// The consumer runs in one pool and `make` uses another: neither waits for the other's threads.
    #[test]
    fn parallel_consumers_and_parallel_make_do_not_deadlock() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        let make = |index: usize| -> usize { (0..100).into_par_iter().map(|i| i * index).sum() };
        let mut sums = Vec::new();
        pool.unwrap().install(|| {
            ahead(40, 2, 4, make, |ahead| {
                let take = |_, sum| {
                    sums.push(sum);
                    Ok::<(), ()>(())
                };
                in_order(40, 2, |index| Ok(ahead.take(index)), take)
            })
            .unwrap()
            .unwrap();
        });
        assert!(sums.into_iter().eq((0..40).map(|i| 4950 * i)));
    }

    #[test]
    fn workers_end_with_the_consumer_and_their_panic_reaches_it() {
        let made = AtomicUsize::new(0);
        let make = |index: usize| {
            made.fetch_add(1, SeqCst);
            assert!(index != 5, "made to panic");
            index
        };
        let early = ahead(1000, 2, 4, make, |ahead| ahead.take(0) + ahead.take(1));
        assert_eq!(early.unwrap(), 1);
        assert!(made.load(SeqCst) <= 2 + 4);
        for workers in [0, 2] {
            let before = AtomicUsize::new(0);
            let all = catch_unwind(AssertUnwindSafe(|| {
                ahead(1000, workers, 4, make, |ahead| {
                    (0..1000).for_each(|index| {
                        ahead.take(index);
                        before.fetch_add(1, SeqCst);
                    });
                })
            }));
            let panic = all.unwrap_err();
            assert_eq!(
                panic.downcast_ref::<&str>(),
                Some(&"made to panic"),
                "{workers} workers"
            );
            assert_eq!(before.load(SeqCst), 5, "{workers} workers");
        }
    }
}
