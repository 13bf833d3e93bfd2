//! A device that passes every call to another one and counts it in a [`Ledger`], with the time of each kind of call if the other has a clock.
//!
//! So a real device writes the ledger of its own steps, which a test compares with that of a device that only counts.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::launch::Launch;
use super::launcher::{Device, DeviceError, Held, Launcher, Mark, Result};
use super::ledger::{Holding, Ledger};
use super::matmul::{Matmul, Operands};

/// A device, its counts and its times.
#[derive(Clone)]
pub struct Counting(Arc<Counter>);

impl Counting {
    /// Counts the calls of `device` that are made through [`Counting::device`].
    pub fn of(device: &Device) -> Self {
        Self(Arc::new(Counter {
            inner: device.launcher().clone(),
            ledger: Ledger::default(),
            spans: Mutex::default(),
        }))
    }

    /// Returns the device whose calls are counted.
    pub fn device(&self) -> Device {
        Device::new(self.0.clone())
    }

    /// Returns the counts.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Forgets counts and times. Memory that is still allocated counts on.
    pub fn clear(&self) {
        self.0.ledger.clear();
        self.0.spans().clear();
    }

    /// Waits for the device and returns the seconds of all calls by the names of the ledger's lines, without allocations and waits; empty
    /// without a clock.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn seconds(&self) -> Result<BTreeMap<String, f64>> {
        let mut all = BTreeMap::new();
        for (name, [from, to]) in self.0.spans().iter() {
            let seconds = self.0.inner.seconds_between(from, to)?;
            *all.entry(name.clone()).or_default() += seconds;
        }
        Ok(all)
    }
}

struct Counter {
    inner: Arc<dyn Launcher>,
    ledger: Ledger,
    /// Marks before and after every call.
    spans: Mutex<Vec<(String, [Mark; 2])>>,
}

impl Counter {
    fn spans(&self) -> MutexGuard<'_, Vec<(String, [Mark; 2])>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call between two marks.
    fn timed<T>(&self, name: impl Into<String>, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let from = self.inner.mark()?;
        let result = call()?;
        if let (Some(from), Some(to)) = (from, self.inner.mark()?) {
            self.spans().push((name.into(), [from, to]));
        }
        Ok(result)
    }
}

/// Counted memory of the other device.
struct Counted {
    inner: Arc<dyn Held>,
    _holding: Holding,
}

impl Held for Counted {
    fn address(&self) -> u64 {
        self.inner.address()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

#[expect(unsafe_code, reason = "passes calls on")]
impl Launcher for Counter {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>> {
        Ok(Arc::new(Counted {
            inner: self.inner.allocate(bytes)?,
            _holding: self.ledger.hold(bytes),
        }))
    }

    fn free_bytes(&self) -> Result<usize> {
        self.inner.free_bytes()
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.ledger.count("upload", bytes.len() as u64, 0);
        // SAFETY: the caller's contract.
        self.timed("upload", || unsafe { self.inner.write(to, bytes) })
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.ledger.count("download", bytes.len() as u64, 0);
        self.ledger.count("wait", 0, 0);
        // SAFETY: the caller's contract.
        self.timed("download", || unsafe { self.inner.read(from, bytes) })
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.ledger.count("copy", 2 * bytes as u64, 0);
        // SAFETY: the caller's contract.
        self.timed("copy", || unsafe { self.inner.copy(to, from, bytes) })
    }

    fn wait(&self) -> Result<()> {
        self.ledger.count("wait", 0, 0);
        self.inner.wait()
    }

    unsafe fn upload(&self, to: u64, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        self.ledger.count("upload", bytes as u64, 0);
        // SAFETY: the caller's contract.
        self.timed("upload", || unsafe { self.inner.upload(to, bytes, fill) })
    }

    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor> {
        let counted = held.into_any().downcast::<Counted>().ok();
        let counted = counted.and_then(Arc::into_inner);
        let Some(Counted { inner, .. }) = counted else {
            return Err(DeviceError::Refused {
                device: self.name(),
                message: "memory for a tensor is still used or belongs to another device".into(),
            });
        };
        self.inner.tensor(inner, shape)
    }

    unsafe fn launch(&self, launch: &Launch, addresses: &[u64]) -> Result<()> {
        let name = self.ledger.count_launch(launch);
        // SAFETY: the caller's contract.
        self.timed(name, || unsafe { self.inner.launch(launch, addresses) })
    }

    unsafe fn write_tensor(&self, to: u64, tensor: &Tensor) -> Result<()> {
        let name = self.ledger.count_tensor(tensor);
        // SAFETY: the caller's contract.
        self.timed(name, || unsafe { self.inner.write_tensor(to, tensor) })
    }

    unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> Result<()> {
        let name = self.ledger.count_product(matmul, at);
        // SAFETY: the caller's contract.
        self.timed(name, || unsafe { self.inner.multiply(matmul, at) })
    }

    fn without_bias(&self) -> u64 {
        self.inner.without_bias()
    }

    fn mark(&self) -> Result<Option<Mark>> {
        self.inner.mark()
    }

    fn seconds_between(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.inner.seconds_between(from, to)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::device::launch::{Dtype, Float};
    use crate::ops::gather::launch::gather;
    use crate::testing::under_test;

    #[test]
    fn numbers_are_those_of_the_other_device_and_calls_are_counted() {
        let Some(device) = under_test() else {
            return;
        };
        let counting = Counting::of(&device);
        let counted = counting.device();
        let run = |device: &Device| {
            let x = device.put(&[1.0_f32, 2.0, 3.0, 4.0]).unwrap();
            let from = device.put(&[1_u32]).unwrap();
            let launch = gather(Float::F32, 2, 1, 2).unwrap();
            let given = [("x", &x), ("from", &from)];
            let [out] = device.run_all(&[launch], &given, ["out"]).unwrap();
            let other = out.clone();
            let error = device.tensor(out, &[2]).unwrap_err().to_string();
            assert!(error.contains("still used"), "{error}");
            device
                .tensor(other, &[2])
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(
            (run(&counted), run(&device)),
            (vec![3.0, 4.0], vec![3.0, 4.0])
        );
        let lines = counting.ledger().lines();
        assert_eq!((lines["upload"].calls, lines["allocate"].calls), (2, 3));
        assert_eq!((counting.ledger().launches(), lines["wait"].calls), (1, 2));
        assert_eq!(counting.ledger().most_bytes(), 3 * 16);
        counting.clear();
        assert!(counting.ledger().lines().is_empty());
        assert_eq!(counting.ledger().most_bytes(), 0);
    }

    /// A device without numbers whose clock ticks at every mark.
    #[derive(Default)]
    struct Ticking(Ledger, AtomicU64);

    #[expect(unsafe_code, reason = "implements a trait; no address is used")]
    impl Launcher for Ticking {
        fn name(&self) -> String {
            "ticking".into()
        }

        fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>> {
            self.0.allocate(bytes)
        }

        fn free_bytes(&self) -> Result<usize> {
            self.0.free_bytes()
        }

        unsafe fn write(&self, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }

        unsafe fn read(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        unsafe fn copy(&self, _: u64, _: u64, _: usize) -> Result<()> {
            Ok(())
        }

        fn wait(&self) -> Result<()> {
            Ok(())
        }

        fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor> {
            self.0.tensor(held, shape)
        }

        unsafe fn launch(&self, _: &Launch, _: &[u64]) -> Result<()> {
            Ok(())
        }

        unsafe fn multiply(&self, _: &Matmul, _: &Operands<u64>) -> Result<()> {
            Ok(())
        }

        fn mark(&self) -> Result<Option<Mark>> {
            Ok(Some(Box::new(self.1.fetch_add(1, Ordering::Relaxed))))
        }

        fn seconds_between(&self, from: &Mark, to: &Mark) -> Result<f64> {
            let at = |mark: &Mark| *mark.downcast_ref::<u64>().unwrap() as f64;
            Ok(at(to) - at(from))
        }
    }

    #[test]
    fn calls_of_one_kind_add_their_times() {
        let counting = Counting::of(&Device::new(Arc::new(Ticking::default())));
        let device = counting.device();
        let [a, b] = [4, 4].map(|len| device.room(Dtype::F32, len).unwrap());
        device.write(&a, &[0.0_f32; 4]).unwrap();
        device.write(&b, &[0.0_f32; 4]).unwrap();
        device.copy(&a, &b).unwrap();
        device.wait().unwrap();
        let seconds = counting.seconds().unwrap();
        let found: Vec<_> = seconds
            .iter()
            .map(|(name, s)| (name.as_str(), *s))
            .collect();
        assert_eq!(found, [("copy", 1.0), ("upload", 2.0)]);
        counting.clear();
        assert!(counting.seconds().unwrap().is_empty());
    }
}
