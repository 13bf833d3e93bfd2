//! Records what a computation asks of a device, so that the device can start the same operations again and again.
//!
//! A recording has fixed addresses. Its own memory, of intermediate results, becomes ranges of one allocation, which recordings that do not
//! overlap in time may share. A GPU starts all operations together, as a CUDA graph (`cuda/graph.rs`); other devices start one after another.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::launch::Launch;
use super::launcher::{Combined, Device, DeviceError, Held, Launcher, Memory, Operation, Result};
use super::matmul::{ALIGNMENT, Matmul, Operands};

/// Start of the addresses of a recording's own memory. No device has memory there.
const OWN: u64 = 1 << 62;

/// Ranges of a space. Ranges that were given back are used again.
#[derive(Default)]
struct Space {
    /// Length of each free range by its start.
    free: BTreeMap<u64, u64>,
    end: u64,
}

impl Space {
    /// Takes the smallest free range that suffices, and makes the space longer if there is none.
    fn take(&mut self, len: u64) -> u64 {
        let fitting = self.free.iter().filter(|(_, free)| **free >= len);
        let smallest = fitting.min_by_key(|(_, free)| **free).map(|(at, _)| *at);
        let last = self.free.last_key_value().map(|(at, free)| (*at, *free));
        let at = match (smallest, last) {
            (Some(at), _) => at,
            (None, Some((at, free))) if at + free == self.end => at,
            (None, _) => self.end,
        };
        let free = self.free.remove(&at).unwrap_or(0);
        if free > len {
            self.free.insert(at + len, free - len);
        }
        self.end = self.end.max(at + len);
        at
    }

    /// Takes back a range and joins it with free ranges beside it.
    fn give_back(&mut self, mut at: u64, mut len: u64) {
        if let Some(next) = self.free.remove(&(at + len)) {
            len += next;
        }
        let before = self.free.range(..at).next_back();
        if let Some((&start, &free)) = before.filter(|(start, free)| **start + **free == at) {
            (at, len) = (start, free + len);
        }
        self.free.insert(at, len);
    }
}

#[derive(Default)]
struct Book {
    operations: Vec<Operation>,
    space: Space,
    /// Number of ranges that are in use.
    used: usize,
    /// Memory of others by its address.
    held: BTreeMap<u64, Arc<dyn Held>>,
}

/// A device that writes down operations and computes nothing.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Book>>);

/// Memory of a recording.
struct Range {
    recorder: Recorder,
    at: u64,
    len: u64,
}

impl Held for Range {
    fn address(&self) -> u64 {
        OWN + self.at
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let mut book = self.recorder.book();
        book.space.give_back(self.at, self.len);
        book.used -= 1;
    }
}

impl Recorder {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, operation: Operation) {
        self.book().operations.push(operation);
    }

    fn refuse<T>(&self, what: &str) -> Result<T> {
        Err(DeviceError::Refused {
            device: self.name(),
            message: format!("{what} cannot be recorded"),
        })
    }
}

#[expect(unsafe_code, reason = "implements a trait; no address is used")]
impl Launcher for Recorder {
    fn name(&self) -> String {
        "recording".into()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>> {
        let len = (bytes as u64).next_multiple_of(ALIGNMENT);
        let mut book = self.book();
        book.used += 1;
        let at = book.space.take(len);
        let recorder = self.clone();
        Ok(Arc::new(Range { recorder, at, len }))
    }

    fn free_bytes(&self) -> Result<usize> {
        self.refuse("a question for free memory")
    }

    unsafe fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        self.refuse("a copy to the device")
    }

    unsafe fn read(&self, _: u64, _: &mut [u8]) -> Result<()> {
        self.refuse("a copy from the device")
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.add(Operation::Copy { to, from, bytes });
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.refuse("a wait")
    }

    fn tensor(&self, _: Arc<dyn Held>, _: &[usize]) -> Result<Tensor> {
        self.refuse("a tensor")
    }

    unsafe fn launch(&self, launch: &Launch, addresses: &[u64]) -> Result<()> {
        self.add(Operation::Launch(launch.clone(), addresses.to_vec()));
        Ok(())
    }

    unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> Result<()> {
        self.add(Operation::Product(*matmul, *at));
        Ok(())
    }

    fn keep(&self, held: &Arc<dyn Held>) {
        let address = held.address();
        if address < OWN {
            self.book().held.insert(address, held.clone());
        }
    }
}

/// Operations in order, with the memory of others that they use.
pub struct Recording {
    operations: Vec<Operation>,
    bytes: u64,
    held: Vec<Arc<dyn Held>>,
}

impl Recording {
    /// Records what `work` asks of the device that it gets. Nothing is computed. `work` may use memory of one other device, which the recording
    /// keeps, and must free all memory of the recording.
    ///
    /// # Errors
    /// Errors of `work`; if it reads, writes or waits, or if it keeps memory of the recording.
    pub fn of<E: From<DeviceError>>(
        work: impl FnOnce(&Device) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let recorder = Recorder::default();
        work(&Device::new(Arc::new(recorder.clone())))?;
        let mut book = recorder.book();
        if book.used > 0 {
            let what = format!("memory that is still used ({} ranges)", book.used);
            return Ok(recorder.refuse(&what)?);
        }
        Ok(Self {
            operations: std::mem::take(&mut book.operations),
            bytes: book.space.end,
            held: std::mem::take(&mut book.held).into_values().collect(),
        })
    }

    /// Returns the bytes of the recording's own memory.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Places the recording's own memory at the start of `room`, memory of `device`.
    ///
    /// # Errors
    /// If `room` is shorter than [`bytes`](Self::bytes), or part of a larger allocation.
    pub fn on(self, device: &Device, room: &Memory) -> Result<Replay> {
        let start = room.address();
        if room.bytes() < self.bytes() || !room.starts_a_matrix() {
            return Err(DeviceError::Refused {
                device: device.name(),
                message: format!(
                    "a recording needs {} bytes, found {}",
                    self.bytes(),
                    room.bytes()
                ),
            });
        }
        let place = |at: u64| at.checked_sub(OWN).map_or(at, |own| start + own);
        let operations = self.operations.into_iter();
        Ok(Replay {
            device: device.clone(),
            operations: operations.map(|operation| operation.moved(place)).collect(),
            combined: None,
            _held: self.held,
            _room: room.clone(),
        })
    }
}

/// Recorded operations on a device.
pub struct Replay {
    device: Device,
    operations: Vec<Operation>,
    /// Declared before the memory, so that it is dropped first.
    combined: Option<Box<dyn Combined>>,
    _held: Vec<Arc<dyn Held>>,
    _room: Memory,
}

impl Replay {
    /// Starts all operations in order, without waiting for them. The first time each is started alone, so that the device compiles kernels and
    /// chooses algorithms; then they are combined if the device can do so.
    ///
    /// # Errors
    /// Errors of the device.
    #[expect(unsafe_code, reason = "passes recorded addresses")]
    pub fn start(&mut self) -> Result<()> {
        if let Some(combined) = &self.combined {
            return combined.start();
        }
        let launcher = self.device.launcher();
        for operation in &self.operations {
            // SAFETY: `Device` checked the operation when it was recorded. Memory of others is held; own memory that is in use at the same time
            // has different ranges of the room, which is held, too.
            unsafe { operation.start(launcher.as_ref()) }?;
        }
        // SAFETY: as above; `combined` does not outlive the memory.
        self.combined = unsafe { launcher.combine(&self.operations) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
