//! The device: finds it, compiles a launch's source for it at first use, and launches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUfunction_attribute, CUresult,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use super::cache::Cache;
use super::nvrtc::{Nvrtc, NvrtcError};
use crate::device::launch::{Arg, Buffer, Launch, LaunchError, SHARED_UNASKED};

/// Why nothing ran on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is none.
    #[error("the NVIDIA driver finds no GPU here ({0})")]
    None(String),
    /// A call of the driver failed.
    #[error("{call}: {code}{remedy}")]
    Driver {
        /// What was tried.
        call: String,
        /// The driver's name for it.
        code: String,
        /// What to do, after a semicolon; empty where that is not known.
        remedy: &'static str,
    },
    /// A kernel was not compiled.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// A launch that this device cannot make.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A buffer is not where a launch needs it.
    #[error("{kernel}: the buffer {name} begins at {address:#x}, expected a multiple of 16")]
    Unaligned {
        /// The kernel.
        kernel: String,
        /// The buffer.
        name: &'static str,
        /// Where it begins.
        address: u64,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, GpuError>;

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

/// A GPU with what was compiled for it.
pub struct Gpu {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    nvrtc: Nvrtc,
    cache: Cache,
    /// Virtual architecture of the device.
    arch: String,
    /// Shared memory that a block can have, bytes.
    shared: u32,
    functions: Mutex<HashMap<String, CudaFunction>>,
    pub(super) name: String,
}

/// Name and compute capability of the first GPU.
///
/// # Errors
/// [`GpuError::None`] without one.
pub fn describe() -> Result<String> {
    let context = first()?;
    let name = context.name().map_err(driver("the device's name"))?;
    let (major, minor) = context
        .compute_capability()
        .map_err(driver("the compute capability"))?;
    Ok(format!("{name}, compute capability {major}.{minor}"))
}

/// Memory of the first GPU, bytes.
///
/// # Errors
/// [`GpuError::None`] without one.
pub fn memory() -> Result<usize> {
    first()?.total_mem().map_err(driver("the memory's size"))
}

fn first() -> Result<Arc<CudaContext>> {
    let none = |error: DriverError| GpuError::None(format!("{:?}", error.0));
    match CudaContext::device_count().map_err(none)? {
        0 => Err(GpuError::None("no device".into())),
        _ => CudaContext::new(0).map_err(driver("opening the device")),
    }
}

impl Gpu {
    /// The first one.
    ///
    /// # Errors
    /// [`GpuError::None`] without one, [`GpuError::Nvrtc`] without a compiler.
    pub fn open() -> Result<Self> {
        let context = first()?;
        let stream = context.default_stream();
        Self::on(context, stream)
    }

    /// The device of a context; launches go to `stream`.
    ///
    /// # Errors
    /// [`GpuError::Nvrtc`] without a compiler.
    pub fn on(context: Arc<CudaContext>, stream: Arc<CudaStream>) -> Result<Self> {
        let nvrtc = Nvrtc::find()?;
        let (major, minor) = context
            .compute_capability()
            .map_err(driver("the compute capability"))?;
        let name = context.name().map_err(driver("the device's name"))?;
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared = context
            .attribute(most)
            .map_err(driver("the shared memory"))?;
        Ok(Self {
            stream,
            context,
            nvrtc,
            cache: Cache::of_user(),
            arch: format!("compute_{major}{minor}"),
            shared: u32::try_from(shared).unwrap_or(SHARED_UNASKED),
            functions: Mutex::default(),
            name,
        })
    }

    /// Bytes to the device.
    ///
    /// # Errors
    /// When there is no room.
    pub fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>> {
        self.stream
            .clone_htod(bytes)
            .map_err(driver("a copy to the device"))
    }

    /// Bytes from the device, when what writes them is done.
    ///
    /// # Errors
    /// When a launch before it failed.
    pub fn download(&self, bytes: &CudaSlice<u8>) -> Result<Vec<u8>> {
        let copied = self
            .stream
            .clone_dtoh(bytes)
            .map_err(driver("a copy from the device"))?;
        self.wait()?;
        Ok(copied)
    }

    /// Until everything launched is done.
    ///
    /// # Errors
    /// When a launch failed.
    pub fn wait(&self) -> Result<()> {
        self.stream
            .synchronize()
            .map_err(driver("what was launched before"))
    }

    /// The stream that everything here runs on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    fn function(&self, launch: &Launch) -> Result<CudaFunction> {
        let key = format!("{} {:?}", launch.kernel, launch.module.constants);
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&key) {
            return Ok(function.clone());
        }
        let ptx = self.cache.ptx(&self.nvrtc, &launch.module, &self.arch)?;
        let module = self
            .context
            .load_module(Ptx::from_src(ptx))
            .map_err(driver("loading PTX"))?;
        let function = module
            .load_function(&launch.kernel)
            .map_err(driver(&launch.kernel))?;
        if launch.shared > SHARED_UNASKED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared).unwrap_or(i32::MAX);
            function
                .set_attribute(most, bytes)
                .map_err(driver(&launch.kernel))?;
        }
        functions.insert(key, function.clone());
        Ok(function)
    }

    /// Launches; does not wait.
    ///
    /// # Errors
    /// When it does not fit the device, does not compile, or the driver refuses it.
    ///
    /// # Safety
    /// `address` gives for every buffer of the launch an address on this device that stays valid until [`wait`](Self::wait), of as many
    /// numbers of its type as the launch says; buffers that are written overlap no other.
    #[expect(unsafe_code, reason = "addresses are the caller's")]
    pub unsafe fn launch(
        &self,
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
            if at % 16 != 0 {
                return Err(GpuError::Unaligned {
                    kernel: launch.kernel.clone(),
                    name: buffer.name,
                    address: at,
                });
            }
            addresses.push(at);
        }
        let mut builder = self.stream.launch_builder(&function);
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
        // SAFETY: a test holds each launch's arguments against its kernel's parameters; addresses are as the caller promised.
        unsafe { builder.launch(config) }.map_err(driver(&launch.to_string()))?;
        Ok(())
    }
}
