//! A device that computes nothing and counts: launches, matrix products, copies, their bytes and operations, and memory.
//!
//! A training step on it shows what the same step asks of a GPU, at any size and without a GPU: launches are values, and buffers have no
//! contents. Reading returns zeros.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::launch::{Access, Launch};
use super::launcher::{Device, DeviceError, Held, Launcher, Result};
use super::matmul::{Matmul, Operands};

/// What calls of one kind ask of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Number of calls.
    pub calls: u64,
    /// Bytes that they read and write in the device's memory, if every buffer is moved once.
    pub bytes: u64,
    /// Operations of matrix products.
    pub flops: u64,
}

/// Calls that are neither kernels nor matrix products. A "wait" is one that the program asks for; the driver may also wait while it copies from
/// memory that is not pinned. Memory that is allocated is not moved: "allocate" has no bytes.
pub const NOT_LAUNCHES: [&str; 5] = ["allocate", "upload", "download", "copy", "wait"];

/// Start of the names of matrix products, which their forms follow.
pub const MATMUL: &str = "matmul";

#[derive(Debug, Default)]
struct Book {
    lines: BTreeMap<String, Line>,
    /// The next free address.
    next: u64,
    held: u64,
    most: u64,
}

/// The counts of a device.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    /// Returns a device that counts here.
    pub fn device(&self) -> Device {
        Device::new(Arc::new(self.clone()))
    }

    /// Returns the counts by kernel, form of matrix product, or one of [`NOT_LAUNCHES`].
    pub fn lines(&self) -> BTreeMap<String, Line> {
        self.book().lines.clone()
    }

    /// Forgets the counts. Memory that is still allocated counts on.
    pub fn clear(&self) {
        let mut book = self.book();
        book.lines.clear();
        book.most = book.held;
    }

    /// Returns the largest number of bytes that were allocated at the same time.
    pub fn most_bytes(&self) -> u64 {
        self.book().most
    }

    /// Returns the number of kernels and matrix products.
    pub fn launches(&self) -> u64 {
        let lines = self.lines();
        let kernels = lines
            .iter()
            .filter(|(name, _)| !NOT_LAUNCHES.contains(&name.as_str()));
        kernels.map(|(_, line)| line.calls).sum()
    }

    /// Returns the bytes of all calls.
    pub fn bytes(&self) -> u64 {
        self.lines().values().map(|line| line.bytes).sum()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, name: &str, bytes: u64, flops: u64) {
        let mut book = self.book();
        let line = book.lines.entry(name.to_owned()).or_default();
        line.calls += 1;
        line.bytes += bytes;
        line.flops += flops;
    }

    /// Counts a launch and returns the name of its line.
    pub(super) fn count_launch(&self, launch: &Launch) -> String {
        let bytes = launch.buffers().map(|of| {
            let times = if of.access == Access::Update { 2 } else { 1 };
            (times * of.len * of.dtype.size()) as u64
        });
        self.count(&launch.kernel, bytes.sum(), launch.flops);
        launch.kernel.clone()
    }

    /// Counts a matrix product and returns the name of its line.
    pub(super) fn count_product(&self, matmul: &Matmul, at: &Operands<u64>) -> String {
        let bytes = matmul.bytes(at);
        let name = format!("{MATMUL} {:?}", matmul.form);
        self.count(&name, bytes, matmul.flops());
        name
    }

    /// Counts the copy of a tensor and returns the name of its line: from the host, or between two places of the device's memory.
    pub(super) fn count_tensor(&self, tensor: &Tensor) -> &'static str {
        let (name, bytes) = match tensor.device().is_cpu() {
            true => ("upload", 4),
            false => ("copy", 8),
        };
        self.count(name, bytes * tensor.elem_count() as u64, 0);
        name
    }

    /// Counts memory until the result is dropped.
    pub(super) fn hold(&self, bytes: usize) -> Holding {
        self.count("allocate", 0, 0);
        let bytes = bytes as u64;
        let mut book = self.book();
        let address = book.next.next_multiple_of(256);
        book.next = address + bytes;
        book.held += bytes;
        book.most = book.most.max(book.held);
        Holding {
            ledger: self.clone(),
            address,
            bytes,
        }
    }
}

/// Counted memory without contents.
pub(super) struct Holding {
    ledger: Ledger,
    address: u64,
    bytes: u64,
}

impl Held for Holding {
    fn address(&self) -> u64 {
        self.address
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.ledger.book().held -= self.bytes;
    }
}

#[expect(unsafe_code, reason = "implements a trait; no address is used")]
impl Launcher for Ledger {
    fn name(&self) -> String {
        "ledger".into()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>> {
        Ok(Arc::new(self.hold(bytes)))
    }

    fn free_bytes(&self) -> Result<usize> {
        Ok(usize::MAX)
    }

    unsafe fn write(&self, _: u64, bytes: &[u8]) -> Result<()> {
        self.count("upload", bytes.len() as u64, 0);
        Ok(())
    }

    unsafe fn read(&self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        self.count("download", bytes.len() as u64, 0);
        self.wait()
    }

    unsafe fn copy(&self, _: u64, _: u64, bytes: usize) -> Result<()> {
        self.count("copy", 2 * bytes as u64, 0);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.count("wait", 0, 0);
        Ok(())
    }

    fn tensor(&self, _: Arc<dyn Held>, _: &[usize]) -> Result<Tensor> {
        Err(DeviceError::Refused {
            device: self.name(),
            message: "it has no numbers".into(),
        })
    }

    unsafe fn write_tensor(&self, _: u64, tensor: &Tensor) -> Result<()> {
        self.count_tensor(tensor);
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, _: &[u64]) -> Result<()> {
        self.count_launch(launch);
        Ok(())
    }

    unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> Result<()> {
        self.count_product(matmul, at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::launch::{Dtype, Float};
    use crate::device::launcher::Memory;
    use crate::device::matmul::Form;
    use crate::ops::gather::launch::gather;

    #[test]
    fn calls_bytes_and_memory_are_counted() {
        let ledger = Ledger::default();
        let device = ledger.device();
        let x = device.room(Dtype::F32, 5 * 8).unwrap();
        let from = device.put(&[0_u32, 2, 4]).unwrap();
        let launch = gather(Float::F32, 5, 3, 8).unwrap();
        let given = [("x", &x), ("from", &from)];
        let [out] = device.run_all(&[launch], &given, ["out"]).unwrap();
        let lines = ledger.lines();
        let of = |name: &str| lines[name];
        assert_eq!(of("gather_rows_f32").bytes, (40 + 3 + 24) * 4);
        assert_eq!((of("upload").calls, of("upload").bytes), (1, 12));
        assert_eq!((ledger.launches(), ledger.most_bytes()), (1, 160 + 16 + 96));
        drop((x, from, out));
        assert_eq!(ledger.book().held, 0);

        ledger.clear();
        let matmul = Matmul {
            form: Form::Weight,
            rows: 3,
            cols: 8,
            inner: 16,
            out: Float::F32,
            add: true,
        };
        let [left, right] = [48, 128].map(|len| device.room(Dtype::Bf16, len).unwrap());
        let out = device.room(Dtype::F32, 24).unwrap();
        let operands = Operands::new(&left, &right, &out);
        device.multiply(&matmul, operands).unwrap();
        let line = ledger.lines()["matmul Weight"];
        // Both factors once, and the product read and written.
        assert_eq!((line.bytes, line.flops), (2 * 48 + 2 * 128 + 8 * 24, 768));
        let swapped = Operands::new(&right, &left, &out);
        let error = device.multiply(&matmul, swapped).unwrap_err().to_string();
        assert!(error.contains("left: found"), "{error}");
        let residual = Operands {
            residual: Some(&left),
            ..operands
        };
        assert!(device.multiply(&matmul, residual).is_err());

        // The gradient of a bias comes with that of a weight only, and a bias with an output only.
        let refused = |matmul: Matmul, operands: Operands<&Memory>| {
            device.multiply(&matmul, operands).unwrap_err().to_string()
        };
        let vector = device.room(Dtype::F32, 16).unwrap();
        let sums = Operands {
            sums: Some(&vector),
            ..operands
        };
        let error = refused(matmul, sums);
        assert!(error.contains("sums: found"), "{error}");
        let sums = vector.part(0..3);
        let (sums, bias) = (Some(&sums), vector.part(0..8));
        device
            .multiply(&matmul, Operands { sums, ..operands })
            .unwrap();
        let bias = Operands {
            bias: Some(&bias),
            ..operands
        };
        assert!(refused(matmul, bias).contains("bias: needs another form"));
        let form = Form::Output;
        let error = refused(Matmul { form, ..matmul }, Operands { sums, ..operands });
        assert!(error.contains("sums: needs the form Weight"), "{error}");
    }

    #[test]
    fn matrices_start_at_multiples_of_256_bytes_on_every_device() {
        let device = Ledger::default().device();
        let matmul = Matmul {
            form: Form::Output,
            rows: 8,
            cols: 8,
            inner: 8,
            out: Float::F32,
            add: false,
        };
        let [left, right] = [512, 64].map(|len| device.room(Dtype::Bf16, len).unwrap());
        let out = device.room(Dtype::F32, 64).unwrap();
        let multiply = |left: &Memory| device.multiply(&matmul, Operands::new(left, &right, &out));
        multiply(&left.part(128..192)).unwrap();
        let error = multiply(&left.part(64..128)).unwrap_err().to_string();
        assert!(
            error.contains("left: does not start at a multiple of 256"),
            "{error}"
        );
    }
}
