//! Runs launches on the host, for tests without a GPU. g++ compiles a kernel's source with `host.h`. The kernel gets the same grid,
//! block, shared memory and arguments as on a device. This is slow.

#![expect(unsafe_code, reason = "calls the compiled kernels")]

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::Tensor;

use tessera_kernels::device::launch::{Arg, Float, Launch, Module};
use tessera_kernels::device::launcher::{Device, DeviceError, Held, Launcher, Result};
use tessera_kernels::device::matmul::{Form, Matmul, Operands};

/// Headers that the kernels include: name and text.
const HEADERS: [(&str, &str); 5] = [
    ("columns.cuh", include_str!("../device/cuda/columns.cuh")),
    ("common.cuh", include_str!("../device/cuda/common.cuh")),
    (
        "tensor_core.cuh",
        include_str!("../device/cuda/tensor_core.cuh"),
    ),
    ("host.h", include_str!("host.h")),
    ("tensor_core.h", include_str!("tensor_core.h")),
];

/// `const char *emulate(kernel, count, grid, block, shared, backwards, args)` returns an error message or null.
type Emulate = unsafe extern "C" fn(
    *const c_char,
    u32,
    u32,
    u32,
    u32,
    bool,
    *mut *mut c_void,
) -> *const c_char;

/// A compiled source.
pub struct Host {
    emulate: Emulate,
    running: Mutex<()>,
    _library: libloading::Library,
}

impl Host {
    /// Returns the compiled module. Each module is compiled once per process.
    ///
    /// # Errors
    /// If there is no compiler or it reports an error.
    pub fn of(module: &Module) -> std::result::Result<Arc<Self>, String> {
        type Made = std::result::Result<Arc<Host>, String>;
        type All = Mutex<HashMap<String, Arc<OnceLock<Made>>>>;
        static ALL: OnceLock<All> = OnceLock::new();
        let key = format!("{} {:?}", module.name, module.constants);
        let all = ALL.get_or_init(All::default);
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = all.entry(key).or_default().clone();
        drop(all);
        slot.get_or_init(|| Self::build(module)).clone()
    }

    /// Calls the kernel with `addresses` for its buffers, in order. With `backwards`, threads and blocks run in descending order.
    ///
    /// # Errors
    /// A description of behaviour that CUDA leaves undefined.
    ///
    /// # Safety
    /// As for [`Launcher::launch`].
    pub unsafe fn call(
        &self,
        launch: &Launch,
        addresses: &[u64],
        backwards: bool,
    ) -> std::result::Result<(), String> {
        // Every argument takes eight bytes: an address, or a number in the first four.
        let mut addresses = addresses.iter();
        let mut places: Vec<[u8; 8]> = Vec::new();
        for arg in &launch.args {
            places.push(match arg {
                Arg::Buffer(_) => addresses.next().copied().unwrap_or(0).to_ne_bytes(),
                Arg::U32(_, value) => u64::from(*value).to_le_bytes(),
                Arg::F32(_, value) => u64::from(value.to_bits()).to_le_bytes(),
            });
        }
        let mut args: Vec<*mut c_void> = places.iter_mut().map(|p| p.as_mut_ptr().cast()).collect();
        let kernel = CString::new(launch.kernel.as_str()).map_err(|e| e.to_string())?;
        let _held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a test compares number and types of every launch's arguments with its kernel; the caller vouches for buffers.
        // The lock serialises access to the library's state.
        let message = unsafe {
            (self.emulate)(
                kernel.as_ptr(),
                args.len() as u32,
                launch.grid,
                launch.block,
                launch.shared,
                backwards,
                args.as_mut_ptr(),
            )
        };
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: a C string in the library, which stays loaded.
        let message = unsafe { CStr::from_ptr(message) };
        Err(message.to_string_lossy().into_owned())
    }

    fn build(module: &Module) -> std::result::Result<Arc<Self>, String> {
        let compiler = compiler();
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).map_err(|e| e.to_string())
        };
        for (name, text) in HEADERS {
            write(name, text)?;
        }
        write("kernel.cu", module.source)?;
        write("main.cpp", &dispatcher(module))?;
        let built = folder.path().join("kernel.so");
        compile(&compiler, folder.path(), &built, module)?;
        // SAFETY: the library was just built from this source. Its constructors have no effects.
        let library = unsafe { libloading::Library::new(&built) }.map_err(|e| e.to_string())?;
        // SAFETY: `dispatcher` declares this type.
        let emulate =
            *unsafe { library.get::<Emulate>(b"emulate\0") }.map_err(|e| e.to_string())?;
        Ok(Arc::new(Self {
            emulate,
            running: Mutex::new(()),
            _library: library,
        }))
    }
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".into())
}

/// Checks that the compiler exists.
///
/// # Errors
/// A message with the name of the missing compiler.
pub fn available() -> std::result::Result<(), String> {
    let compiler = compiler();
    match Command::new(&compiler).arg("--version").output() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("no {compiler}")),
    }
}

/// Returns C++ code that calls a kernel by name.
fn dispatcher(module: &Module) -> String {
    let mut text = String::new();
    for (name, value) in &module.constants {
        text += &format!("#define {name} {value}\n");
    }
    text += "#define TESSERA_HOST\n#include \"kernel.cu\"\n";
    text += "extern \"C\" __attribute__((visibility(\"default\"))) const char *emulate(const char *kernel, u32 count, u32 grid, u32 threads, u32 bytes, bool backwards, void **args) {\n";
    for part in module.source.split("__launch_bounds__(").skip(1) {
        let declared = part.split(')').nth(1).unwrap_or_default();
        let name = declared.split('(').next().unwrap_or_default().trim();
        text += &format!(
            "if (!strcmp(kernel, \"{name}\")) return host::launch({name}, count, grid, threads, bytes, backwards, args);\n"
        );
    }
    text + "return \"no such kernel\";\n}\n"
}

/// Compiles a module. Unaligned accesses, excessive shifts and indices outside arrays of known size trap.
fn compile(
    compiler: &str,
    folder: &Path,
    built: &Path,
    module: &Module,
) -> std::result::Result<(), String> {
    let mut command = Command::new(compiler);
    command.args([
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-Wno-unknown-pragmas",
        "-ffp-contract=off",
    ]);
    // Each library has its own state, which must not be merged with another's.
    command.args(["-fvisibility=hidden", "-fno-gnu-unique"]);
    command.args([
        "-fsanitize=alignment,shift,bounds",
        "-fsanitize-undefined-trap-on-error",
    ]);
    let output = command
        .arg("-o")
        .arg(built)
        .arg(folder.join("main.cpp"))
        .output();
    let output = output.map_err(|e| format!("{compiler}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{}.cu: {}",
            module.name,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Returns the host as a device.
///
/// # Errors
/// A message with the name of the missing compiler.
pub fn device() -> std::result::Result<Device, String> {
    available().map(|()| Device::new(Arc::new(Emulation)))
}

struct Emulation;

/// Length of the guard on each side of an allocation, in units of 16 bytes.
const GUARD: usize = 8;
const POISON: u128 = u128::MAX;

/// Poisoned memory between guards, which are checked on drop.
struct HostMemory {
    units: usize,
    start: *mut u128,
}

// SAFETY: the struct owns its memory. `Device` synchronises access, as on a GPU.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(16) + 2 * GUARD;
        let memory = vec![POISON; units].into_boxed_slice();
        Self {
            units,
            start: Box::into_raw(memory).cast(),
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let memory = std::ptr::slice_from_raw_parts_mut(self.start, self.units);
        // SAFETY: the pointer comes from such a box, and it is freed once.
        let memory = unsafe { Box::from_raw(memory) };
        let guards = memory[..GUARD].iter().chain(&memory[self.units - GUARD..]);
        let whole = guards.copied().all(|unit| unit == POISON);
        assert!(
            whole || std::thread::panicking(),
            "a write outside a buffer"
        );
    }
}

impl Held for HostMemory {
    fn address(&self) -> u64 {
        self.start.wrapping_add(GUARD).expose_provenance() as u64
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn place(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Reads numbers from memory.
///
/// # Safety
/// There must be `len` numbers of this type at `address`.
unsafe fn numbers(address: u64, len: usize, float: Float) -> Vec<f32> {
    let mut bytes = vec![0_u8; len * float.dtype().size()];
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(place(address), bytes.as_mut_ptr(), bytes.len()) };
    match float {
        Float::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_ne_bytes(*b))
            .collect(),
        Float::Bf16 => {
            let each = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| half::bf16::from_ne_bytes(*b));
            each.map(half::bf16::to_f32).collect()
        }
    }
}

impl Launcher for Emulation {
    fn name(&self) -> String {
        "emulation".into()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Held>> {
        Ok(Arc::new(HostMemory::new(bytes)))
    }

    fn free_bytes(&self) -> Result<usize> {
        Ok(1 << 30)
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor> {
        let refuse = |message: String| DeviceError::Refused {
            device: self.name(),
            message,
        };
        // A GPU transfers ownership of the memory, so the same condition applies here.
        if Arc::strong_count(&held) > 1 {
            return Err(refuse("memory for a tensor is still used".into()));
        }
        let mut values = vec![0_u8; 4 * shape.iter().product::<usize>()];
        // SAFETY: `Device` has checked the count; `held` keeps the memory alive.
        unsafe { self.read(held.address(), &mut values) }?;
        let values = values.as_chunks::<4>().0.iter();
        let values: Vec<f32> = values.map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
            .map_err(|e| refuse(e.to_string()))
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's contract; a slice of the program does not overlap an allocation.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place(to), bytes.len()) };
        Ok(())
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(place(from), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(place(from), place(to), bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, addresses: &[u64]) -> Result<()> {
        if launch.grid == 0 {
            return Ok(());
        }
        let refuse = |message| DeviceError::Refused {
            device: self.name(),
            message: format!("{launch}: {message}"),
        };
        let host = Host::of(&launch.module).map_err(refuse)?;
        // SAFETY: the caller's contract.
        unsafe { host.call(launch, addresses, false) }.map_err(refuse)
    }

    unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> Result<()> {
        let (m, n, k) = (matmul.rows, matmul.cols, matmul.inner);
        // SAFETY: the caller's contract.
        let bf16 = |at: u64, len| unsafe { numbers(at, len, Float::Bf16) };
        let (left, right) = (bf16(at.left, m * k), bf16(at.right, n * k));
        // SAFETY: as above.
        let out = |at: u64, len| unsafe { numbers(at, len, matmul.out) };
        let bias = at.bias.map(|at| out(at, n));
        let residual = at.residual.map(|at| out(at, m * n));
        let before = matmul.add.then(|| out(at.out, m * n));
        let value = |row: usize, col: usize| {
            let factors = |i: usize| match matmul.form {
                Form::Output => left[row * k + i] * right[col * k + i],
                Form::Input => left[row * k + i] * right[i * n + col],
                Form::Weight => left[i * m + row] * right[i * n + col],
            };
            let others =
                [&residual, &before].map(|of| of.as_ref().map_or(0.0, |of| of[row * n + col]));
            let bias = bias.as_ref().map_or(0.0, |bias| bias[col]);
            (0..k).map(factors).sum::<f32>() + bias + others[0] + others[1]
        };
        let all = (0..m * n).map(|i| value(i / n, i % n));
        let bytes: Vec<u8> = match matmul.out {
            Float::F32 => all.flat_map(f32::to_ne_bytes).collect(),
            Float::Bf16 => {
                let rounded = all.map(half::bf16::from_f32);
                rounded.flat_map(half::bf16::to_ne_bytes).collect()
            }
        };
        if let Some(to) = at.sums {
            let sum = |row: usize| (0..k).map(|i| left[i * m + row]).sum::<f32>();
            let sums: Vec<u8> = (0..m).flat_map(|row| sum(row).to_ne_bytes()).collect();
            // SAFETY: as above.
            unsafe { self.write(to, &sums) }?;
        }
        // SAFETY: as above.
        unsafe { self.write(at.out, &bytes) }
    }
}
