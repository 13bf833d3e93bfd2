//! Runs launches on the host, for tests of machines without a GPU: a kernel's source, compiled by g++ with `host.h`, called
//! with the very grid, block, shared memory and arguments that a device would get. Slow.

#![expect(unsafe_code, reason = "calls the compiled kernels")]

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::Tensor;

use tessera_kernels::device::launch::{Arg, Launch, Module};
use tessera_kernels::device::launcher::{Device, DeviceError, Held, Launcher, Pinned, Result};

/// Headers that the kernels include.
const HEADERS: [(&str, &str); 4] = [
    ("common.cuh", include_str!("../device/cuda/common.cuh")),
    (
        "tensor_core.cuh",
        include_str!("../device/cuda/tensor_core.cuh"),
    ),
    ("host.h", include_str!("host.h")),
    ("tensor_core.h", include_str!("tensor_core.h")),
];

/// `const char *emulate(kernel, count, grid, block, shared, backwards, args)`: what went wrong, or null.
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
    /// Compiled once in a process.
    ///
    /// # Errors
    /// When there is no compiler, or it refuses.
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

    /// Calls the kernel with `addresses` for its buffers, in order; `backwards`: threads and blocks take their turns in falling order.
    ///
    /// # Errors
    /// What the kernel did that CUDA leaves undefined.
    ///
    /// # Safety
    /// As [`Launcher::launch`].
    pub unsafe fn call(
        &self,
        launch: &Launch,
        addresses: &[u64],
        backwards: bool,
    ) -> std::result::Result<(), String> {
        // Every argument in a place of eight bytes: an address, or a number in the first four.
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
        // SAFETY: a test holds every launch's arguments, number and types, against its kernel's; buffers are the caller's promise.
        // The library's state is not shared: calls hold its lock.
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
        // SAFETY: a C string in the library, which stays.
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
        // SAFETY: the library was just built from this source; it has no constructors with effects.
        let library = unsafe { libloading::Library::new(&built) }.map_err(|e| e.to_string())?;
        // SAFETY: `dispatcher` declares it so.
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

/// Whether there is a compiler here; its name otherwise.
///
/// # Errors
/// The name of the one that is not there.
pub fn available() -> std::result::Result<(), String> {
    let compiler = compiler();
    match Command::new(&compiler).arg("--version").output() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("no {compiler}")),
    }
}

/// Finds a kernel by name.
fn dispatcher(module: &Module) -> String {
    let mut text = String::new();
    for (name, value) in &module.constants {
        text += &format!("#define {name} {value}\n");
    }
    text += "#define TESSERA_HOST\n#include \"kernel.cu\"\n";
    text += "extern \"C\" __attribute__((visibility(\"default\"))) const char *emulate(const char *kernel, u32 count, u32 grid, u32 threads, u32 bytes, bool backwards, void **args) {\n";
    for part in module.source.split("__launch_bounds__(THREADS)").skip(1) {
        let name = part.split('(').next().unwrap_or_default().trim();
        text += &format!(
            "if (!strcmp(kernel, \"{name}\")) return host::launch({name}, count, grid, threads, bytes, backwards, args);\n"
        );
    }
    text + "return \"no such kernel\";\n}\n"
}

/// An unaligned access, a shift too far or an index outside an array of known size traps.
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
    // Each library has its own state: none of it may be merged with another's.
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

/// The host as a device, for tests of what is computed on one; `None`, and a line that says so, without a host compiler.
pub fn device() -> Option<Device> {
    match available() {
        Ok(()) => Some(Device::new(Arc::new(Emulation))),
        Err(reason) => {
            super::tell(&format!(
                "SKIPPED, nothing ran on an emulated device: {reason}"
            ));
            None
        }
    }
}

struct Emulation;

/// Guard on either side of an allocation, in units of 16 bytes.
const GUARD: usize = 8;
const POISON: u128 = u128::MAX;

/// Poisoned, between guards that are looked at when it is dropped.
struct HostMemory {
    units: usize,
    start: *mut u128,
}

// SAFETY: the memory is this block's own; who uses it, and when, is `Device`'s concern as on a GPU.
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
        // SAFETY: made of such a box, and dropped once.
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

    fn pinned(&self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pinned> {
        let mut memory = vec![0; bytes];
        fill(&mut memory);
        Ok(Pinned(Box::new(memory)))
    }

    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> Result<Tensor> {
        let refuse = |message: String| DeviceError::Refused {
            device: self.name(),
            message,
        };
        // As a GPU, which gives the memory away.
        if Arc::strong_count(&held) > 1 {
            return Err(refuse("memory for a tensor is still used".into()));
        }
        let mut values = vec![0_u8; 4 * shape.iter().product::<usize>()];
        // SAFETY: `Device` has checked the number; the block is held.
        unsafe { self.read(held.address(), &mut values) }?;
        let values = values.as_chunks::<4>().0.iter();
        let values: Vec<f32> = values.map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
            .map_err(|e| refuse(e.to_string()))
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise; a slice of the program's overlaps no block.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place(to), bytes.len()) };
        Ok(())
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(place(from), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
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
        // SAFETY: the caller's promise.
        unsafe { host.call(launch, addresses, false) }.map_err(refuse)
    }
}
