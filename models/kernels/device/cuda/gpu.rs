//! Opens a GPU, compiles a kernel's source at first use, and launches kernels.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::{
    self as sys, CUdevice_attribute, CUfunction_attribute, CUjit_option, CUresult,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig,
    PushKernelArg as _, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use super::cache::Cache;
use super::nvrtc::{Nvrtc, NvrtcError};
use crate::device::chip::{Chip, OLDEST};
use crate::device::launch::{Arg, Buffer, Launch, LaunchError, Module, SHARED_UNASKED};

/// Reason why a GPU operation failed.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no GPU.
    #[error("the NVIDIA driver finds no GPU ({0})")]
    None(String),
    /// It lacks instructions of the kernels: products in bf16.
    #[error("{name} has compute capability {}.{}, the kernels need {}.{} or newer", .found.0, .found.1, OLDEST.0, OLDEST.1)]
    Old {
        /// The driver's name of the GPU.
        name: String,
        /// Its compute capability.
        found: (i32, i32),
    },
    /// A driver call failed.
    #[error("{call}: {code}{remedy}")]
    Driver {
        /// The attempted operation.
        call: String,
        /// The driver's error code.
        code: String,
        /// The remedy, after a semicolon; empty if unknown.
        remedy: &'static str,
    },
    /// A kernel was not compiled.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// The device cannot run the launch.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A buffer is not aligned.
    #[error("{kernel}: the buffer {name} starts at {address:#x}, expected a multiple of 16")]
    Unaligned {
        /// The kernel.
        kernel: String,
        /// The buffer.
        name: &'static str,
        /// Its start address.
        address: u64,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, GpuError>;

/// Returns a function that converts a driver error; `call` describes the attempted operation.
pub(super) fn driver(call: &str) -> impl Fn(DriverError) -> GpuError {
    move |error| GpuError::Driver {
        call: call.to_owned(),
        code: format!("{:?}", error.0),
        remedy: match error.0 {
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                "; this NVRTC is newer than the driver: install the nvidia-cuda-nvrtc of the driver's version"
            }
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => "; use a smaller batch",
            _ => "",
        },
    }
}

/// Constants of a module: name and value.
type Constants = Vec<(&'static str, u32)>;

/// A GPU and its compiled kernels.
pub struct Gpu {
    /// Context of the device.
    pub(super) context: Arc<CudaContext>,
    /// Stream of all launches.
    pub(super) stream: Arc<CudaStream>,
    nvrtc: Nvrtc,
    cache: Cache,
    /// Virtual and real architecture of the device, such as `compute_90` and `sm_90`.
    arch: [String; 2],
    /// Maximum shared memory per block, bytes.
    shared: u32,
    /// Loaded kernels by name, each with the constants it was compiled for.
    functions: Mutex<HashMap<String, Vec<(Constants, CudaFunction)>>>,
    /// Name for messages and records.
    pub(super) name: String,
}

/// Returns name and compute capability of the first GPU, as [`Chip`] writes them.
///
/// # Errors
/// [`GpuError::None`] if there is no GPU, [`GpuError::Old`] if the kernels cannot run on it.
pub fn describe() -> Result<String> {
    let context = first()?;
    let name = context
        .name()
        .map_err(driver("reading the device's name"))?;
    let capability = context
        .compute_capability()
        .map_err(driver("reading the compute capability"))?;
    usable(name, capability).map(|chip| chip.to_string())
}

fn usable(name: String, found: (i32, i32)) -> Result<Chip> {
    match found < OLDEST {
        true => Err(GpuError::Old { name, found }),
        false => Ok(Chip::new(name, found)),
    }
}

/// Returns the total memory of the first GPU in bytes.
///
/// # Errors
/// [`GpuError::None`] if there is no GPU.
pub fn memory() -> Result<usize> {
    first()?
        .total_mem()
        .map_err(driver("reading the memory size"))
}

fn first() -> Result<Arc<CudaContext>> {
    let none = |error: DriverError| GpuError::None(format!("{:?}", error.0));
    match CudaContext::device_count().map_err(none)? {
        0 => Err(GpuError::None("no device".into())),
        _ => CudaContext::new(0).map_err(driver("opening the device")),
    }
}

impl Gpu {
    /// Opens the first GPU with its default stream.
    ///
    /// # Errors
    /// [`GpuError::None`] without a GPU, [`GpuError::Nvrtc`] without a compiler.
    pub fn open() -> Result<Self> {
        let context = first()?;
        let stream = context.default_stream();
        Self::on(context, stream)
    }

    /// Opens the device of `context`. Launches go to `stream`.
    ///
    /// # Errors
    /// [`GpuError::Nvrtc`] without a compiler.
    pub fn on(context: Arc<CudaContext>, stream: Arc<CudaStream>) -> Result<Self> {
        let nvrtc = Nvrtc::find()?;
        let (major, minor) = context
            .compute_capability()
            .map_err(driver("reading the compute capability"))?;
        let name = context
            .name()
            .map_err(driver("reading the device's name"))?;
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared = context
            .attribute(most)
            .map_err(driver("reading the shared memory size"))?;
        Ok(Self {
            stream,
            context,
            nvrtc,
            cache: Cache::of_user(),
            arch: ["compute", "sm"].map(|kind| format!("{kind}_{major}{minor}")),
            shared: u32::try_from(shared).unwrap_or(SHARED_UNASKED),
            functions: Mutex::default(),
            name,
        })
    }

    /// Copies bytes to new memory on the device.
    ///
    /// # Errors
    /// If memory is exhausted.
    pub fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>> {
        self.stream
            .clone_htod(bytes)
            .map_err(driver("copying to the device"))
    }

    /// Copies bytes from the device and waits for the copy.
    ///
    /// # Errors
    /// If an earlier launch failed.
    pub fn download(&self, bytes: &CudaSlice<u8>) -> Result<Vec<u8>> {
        let copied = self
            .stream
            .clone_dtoh(bytes)
            .map_err(driver("copying from the device"))?;
        self.wait()?;
        Ok(copied)
    }

    /// Waits until all launches have finished.
    ///
    /// # Errors
    /// If a launch failed.
    pub fn wait(&self) -> Result<()> {
        self.stream
            .synchronize()
            .map_err(driver("an earlier launch"))
    }

    /// Returns the stream of the launches.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    fn function(&self, launch: &Launch) -> Result<CudaFunction> {
        let constants = &launch.module.constants;
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let loaded = functions.get(&launch.kernel).into_iter().flatten();
        if let Some((_, function)) = loaded.clone().find(|(of, _)| of == constants) {
            return Ok(function.clone());
        }
        let function = self
            .load(&launch.module)?
            .load_function(&launch.kernel)
            .map_err(driver(&launch.kernel))?;
        if launch.shared > SHARED_UNASKED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared).unwrap_or(i32::MAX);
            function
                .set_attribute(most, bytes)
                .map_err(driver(&launch.kernel))?;
        }
        let variants = functions.entry(launch.kernel.clone()).or_default();
        variants.push((constants.clone(), function.clone()));
        Ok(function)
    }

    /// Loads machine code of NVRTC, which needs no compiler of the driver; if there is none or the driver refuses it, PTX.
    fn load(&self, module: &Module) -> Result<Arc<CudaModule>> {
        let [virtual_arch, real_arch] = &self.arch;
        if let Ok(code) = self.cache.cubin(&self.nvrtc, module, real_arch)
            && let Ok(loaded) = self.context.load_module(Ptx::from_binary(code))
        {
            return Ok(loaded);
        }
        let ptx = self.cache.ptx(&self.nvrtc, module, virtual_arch)?;
        let loaded = self.context.load_module(Ptx::from_src(&ptx));
        loaded.map_err(|error| {
            let said = log_of_loading(&ptx);
            driver(&format!("loading the PTX of {}.cu{said}", module.name))(error)
        })
    }

    /// Starts a launch without waiting for it.
    ///
    /// # Errors
    /// If the launch exceeds the device's limits, does not compile, or the driver refuses it.
    ///
    /// # Safety
    /// For every buffer of the launch, `address` must return an address on this device that is valid until [`wait`](Self::wait) and
    /// has the declared number of elements. A written buffer must not overlap any other.
    #[expect(unsafe_code, reason = "the caller vouches for addresses")]
    pub unsafe fn launch(
        &self,
        launch: &Launch,
        address: impl FnMut(&Buffer) -> u64,
    ) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.launch_on(&self.stream, launch, address) }
    }

    /// Starts a launch on another stream.
    ///
    /// # Errors
    /// As for [`launch`](Self::launch).
    ///
    /// # Safety
    /// As for [`launch`](Self::launch).
    #[expect(unsafe_code, reason = "the caller vouches for addresses")]
    pub(super) unsafe fn launch_on(
        &self,
        stream: &CudaStream,
        launch: &Launch,
        mut address: impl FnMut(&Buffer) -> u64,
    ) -> Result<()> {
        if launch.grid == 0 {
            return Ok(());
        }
        launch.check_shared(self.shared)?;
        let function = self.function(launch)?;
        let mut addresses = Vec::new();
        for buffer in launch.buffers() {
            let at = address(buffer);
            if !at.is_multiple_of(16) {
                return Err(GpuError::Unaligned {
                    kernel: launch.kernel.clone(),
                    name: buffer.name,
                    address: at,
                });
            }
            addresses.push(at);
        }
        let mut builder = stream.launch_builder(&function);
        let mut addresses = addresses.iter();
        for arg in &launch.args {
            match arg {
                Arg::Buffer(_) => addresses.next().map(|at| builder.arg(at)),
                Arg::U32(_, value) => Some(builder.arg(value)),
                Arg::F32(_, value) => Some(builder.arg(value)),
            };
        }
        let config = LaunchConfig {
            grid_dim: (launch.grid, 1, 1),
            block_dim: (launch.block, 1, 1),
            shared_mem_bytes: launch.shared,
        };
        // SAFETY: a test compares each launch's arguments with its kernel's parameters; the caller vouches for the addresses.
        let launched = unsafe { builder.launch(config) };
        launched.map_err(|error| driver(&launch.to_string())(error))?;
        Ok(())
    }
}

/// Returns what the driver's compiler says about PTX, in parentheses; empty if it says nothing. The context is bound to this thread.
#[expect(unsafe_code, reason = "calls the driver")]
fn log_of_loading(ptx: &str) -> String {
    let Ok(text) = CString::new(ptx) else {
        return String::new();
    };
    let mut log = vec![0_u8; 8 << 10];
    let mut options = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    // The driver takes the size as the value of a pointer. The last byte stays zero.
    let size = std::ptr::without_provenance_mut::<c_void>(log.len() - 1);
    let mut values = [log.as_mut_ptr().cast::<c_void>(), size];
    let mut module = std::ptr::null_mut();
    // SAFETY: text, options and log outlive the call, which writes at most the given number of bytes.
    let code = unsafe {
        sys::cuModuleLoadDataEx(
            &raw mut module,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    if code == CUresult::CUDA_SUCCESS {
        // SAFETY: loaded above and not used. A failure cannot be handled here.
        unsafe { result::module::unload(module).ok() };
    }
    let said = CStr::from_bytes_until_nul(&log).unwrap_or_default();
    match said.to_string_lossy().trim() {
        "" => String::new(),
        said => format!(" ({said})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--device auto` took it, and the first kernel failed.
    #[test]
    fn a_gpu_without_the_instructions_of_the_kernels_is_named() {
        let of = |found| usable("Tesla T4".into(), found).map(|chip| chip.to_string());
        let said = of((7, 5)).unwrap_err().to_string();
        assert_eq!(
            said,
            "Tesla T4 has compute capability 7.5, the kernels need 8.0 or newer"
        );
        assert_eq!(of((8, 0)).unwrap(), "Tesla T4, compute capability 8.0");
    }
}
