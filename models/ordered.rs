//! Parallel work with results consumed in order, so results do not depend on the threads' timing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Calls `make` for `0..count` on the threads of the current rayon pool, which claim indices in order, and passes each result to `take` in
/// order. At most `ahead` results wait for an earlier one; a thread that is further ahead blocks. `take` runs on any thread, one call at a
/// time, and holds the queue's lock. It may use the pool only if no other `in_order` runs there at the same time: while it waits, its
/// thread could steal work of the other call and block.
///
/// # Errors
/// The first error of `make` or `take` in order; later results are dropped.
pub fn in_order<T: Send, E: Send>(
    count: usize,
    ahead: usize,
    make: impl Fn(usize) -> Result<T, E> + Sync,
    take: impl FnMut(usize, T) -> Result<(), E> + Send,
) -> Result<(), E> {
    let claimed = AtomicUsize::new(0);
    let line = Queue {
        line: Mutex::new(Line {
            next: 0,
            made: BTreeMap::new(),
            ended: None,
            take,
        }),
        moved: Condvar::new(),
    };
    rayon::broadcast(|_| {
        loop {
            let index = claimed.fetch_add(1, Ordering::Relaxed);
            if index >= count || !line.may_make(index, ahead) {
                return;
            }
            // If `make` or `take` panics, the other threads must not wait for this result.
            let on_panic = EndOnDrop(&line);
            line.put(index, make(index));
            std::mem::forget(on_panic);
        }
    });
    let line = line
        .line
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match line.ended {
        Some(Some(error)) => Err(error),
        _ => Ok(()),
    }
}

struct Queue<T, E, F> {
    line: Mutex<Line<T, E, F>>,
    moved: Condvar,
}

struct Line<T, E, F> {
    next: usize,
    made: BTreeMap<usize, Result<T, E>>,
    /// Set when work stops: an error, or `None` after a panic, which its own thread reports.
    ended: Option<Option<E>>,
    take: F,
}

impl<T, E, F: FnMut(usize, T) -> Result<(), E>> Queue<T, E, F> {
    fn lock(&self) -> MutexGuard<'_, Line<T, E, F>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `index` is at most `ahead` beyond the next index to take, which itself never waits. Returns false if work stopped.
    fn may_make(&self, index: usize, ahead: usize) -> bool {
        let mut line = self.lock();
        while line.ended.is_none() && index > line.next + ahead {
            line = self
                .moved
                .wait(line)
                .unwrap_or_else(PoisonError::into_inner);
        }
        line.ended.is_none()
    }

    fn put(&self, index: usize, made: Result<T, E>) {
        let mut line = self.lock();
        line.made.insert(index, made);
        line.advance();
        drop(line);
        self.moved.notify_all();
    }
}

impl<T, E, F: FnMut(usize, T) -> Result<(), E>> Line<T, E, F> {
    fn advance(&mut self) {
        while self.ended.is_none() {
            let Some(made) = self.made.remove(&self.next) else {
                return;
            };
            let taken = made.and_then(|made| (self.take)(self.next, made));
            match taken {
                Ok(()) => self.next += 1,
                Err(error) => self.ended = Some(Some(error)),
            }
        }
    }
}

struct EndOnDrop<'a, T, E, F: FnMut(usize, T) -> Result<(), E>>(&'a Queue<T, E, F>);

impl<T, E, F: FnMut(usize, T) -> Result<(), E>> Drop for EndOnDrop<'_, T, E, F> {
    fn drop(&mut self) {
        self.0.lock().ended.get_or_insert(None);
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pool(threads: usize) -> rayon::ThreadPool {
        let builder = rayon::ThreadPoolBuilder::new();
        builder.num_threads(threads).build().unwrap()
    }

    /// Earlier indices take longer.
    fn slow(index: usize) -> Result<usize, usize> {
        std::thread::sleep(Duration::from_micros((37 * (10 - index % 10)) as u64));
        Ok(index * index)
    }

    #[test]
    fn every_result_is_taken_once_and_in_order() {
        for threads in [1, 4] {
            for ahead in [0, 1, 100] {
                let mut taken = Vec::new();
                let take = |index, square| {
                    taken.push((index, square));
                    Ok(())
                };
                pool(threads)
                    .install(|| in_order(60, ahead, slow, take))
                    .unwrap();
                assert!(taken.into_iter().eq((0..60).map(|i| (i, i * i))));
            }
        }
    }

    #[test]
    fn the_first_error_in_order_stops_the_work() {
        let make = |index| match index {
            20 => {
                std::thread::sleep(Duration::from_millis(20));
                Err(20)
            }
            22 => Err(22),
            _ => slow(index),
        };
        let mut taken = 0;
        let take = |_, _| {
            taken += 1;
            Ok(())
        };
        assert_eq!(pool(4).install(|| in_order(60, 8, make, take)), Err(20));
        assert_eq!(taken, 20);
        let refuse = |index, _| if index == 7 { Err(7) } else { Ok(()) };
        assert_eq!(pool(4).install(|| in_order(60, 8, slow, refuse)), Err(7));
    }

    #[test]
    fn a_panic_leaves_no_thread_waiting() {
        let panics = |index| {
            assert!(index != 3, "made to panic");
            slow(index)
        };
        let run = || pool(4).install(|| in_order(60, 0, panics, |_, _| Ok::<(), usize>(())));
        assert!(std::panic::catch_unwind(run).is_err());
        let refuses = |index, _| {
            assert!(index != 3, "made to panic");
            Ok(())
        };
        let run = || pool(4).install(|| in_order(60, 0, slow, refuses));
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
