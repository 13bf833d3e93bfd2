//! Implements [`Launcher`] for a GPU. K-means, features, counting, the models' input pipeline and pretraining without a graph use it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr as _, DriverError, result,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{Shape, Storage, Tensor};

use super::gpu::{Gpu, GpuError, driver};
use super::graph;
use super::matmul::Matmuls;
use super::open::free_bytes;
use super::staging::Staging;
use crate::device::launch::{Buffer, Float, Launch};
use crate::device::launcher::{self, Combined, DeviceError, Held, Launcher, Mark, Operation};
use crate::device::matmul::{Matmul, Operands};
use crate::ops::linear::launch::{add_bias, add_rounded_bias, column_sums, parts};

/// Memory of a [`Gpu`], freed in stream order.
struct DeviceMemory {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Held for DeviceMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// A GPU launcher next to Candle's device. For loaders, its launches use their own stream, of the highest priority, while models compute on
/// Candle's stream: small kernels of the input pipeline do not wait behind a whole training step. For training without a graph, it uses
/// Candle's stream.
pub struct Beside {
    gpu: Gpu,
    tensors: CudaDevice,
    staging: Staging,
    /// Opened by the first product.
    matmuls: Mutex<Option<Arc<Matmuls>>>,
}

impl Beside {
    /// Creates a launcher on the GPU of `tensors`, with a stream of the highest priority.
    ///
    /// # Errors
    /// As for [`Gpu::on`], and if the driver cannot create a stream.
    pub fn of(tensors: &CudaDevice) -> Result<Self, GpuError> {
        let context = tensors.cuda_stream().context().clone();
        let creating = driver("creating a stream");
        context.bind_to_thread().map_err(&creating)?;
        let (_, highest) = result::stream::get_priority_range().map_err(&creating)?;
        let stream = context.new_stream_with_priority(highest);
        Self::on(tensors, context, stream.map_err(&creating)?)
    }

    /// Creates a launcher for training on the stream of the tensors, so that it may read them without a wait.
    ///
    /// # Errors
    /// As for [`Gpu::on`].
    pub fn training(tensors: &CudaDevice) -> Result<Self, GpuError> {
        let stream = tensors.cuda_stream();
        Self::on(tensors, stream.context().clone(), stream)
    }

    fn on(
        tensors: &CudaDevice,
        context: Arc<CudaContext>,
        stream: Arc<CudaStream>,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            gpu: Gpu::on(context, stream)?,
            tensors: tensors.clone(),
            staging: Staging::default(),
            matmuls: Mutex::default(),
        })
    }

    fn matmuls(&self) -> Result<Arc<Matmuls>, GpuError> {
        let mut held = self.matmuls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*held {
            return Ok(open.clone());
        }
        let opened = Arc::new(Matmuls::new(self.gpu.stream.clone())?);
        Ok(held.insert(opened).clone())
    }

    fn refused(&self, error: GpuError) -> DeviceError {
        match error {
            GpuError::Launch(error) => error.into(),
            error => DeviceError::Refused {
                device: self.gpu.name.clone(),
                message: error.to_string(),
            },
        }
    }

    /// Calls the driver on this thread.
    fn call<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> std::result::Result<T, DriverError>,
    ) -> launcher::Result<T> {
        let bound = self.gpu.context.bind_to_thread();
        let done = bound.and_then(|()| work());
        done.map_err(|error| self.refused(driver(what)(error)))
    }
}

/// Operations on a stream: that of the launcher, or one that records a graph.
#[expect(unsafe_code, reason = "driver calls with addresses")]
impl Beside {
    fn allocate_on(
        &self,
        stream: &Arc<CudaStream>,
        bytes: usize,
    ) -> launcher::Result<Arc<DeviceMemory>> {
        // SAFETY: `Device` treats the contents as undefined.
        let slice = self.call("allocating device memory", || unsafe {
            stream.alloc(bytes)
        })?;
        let address = slice.device_ptr(stream).0;
        Ok(Arc::new(DeviceMemory { slice, address }))
    }

    /// As [`Launcher::copy`].
    unsafe fn copy_on(
        &self,
        stream: &CudaStream,
        [to, from]: [u64; 2],
        bytes: usize,
    ) -> launcher::Result<()> {
        let stream = stream.cu_stream();
        // SAFETY: the caller's contract.
        self.call("copying on the device", || unsafe {
            result::memcpy_dtod_async(to, from, bytes, stream)
        })
    }

    /// As [`Launcher::launch`].
    unsafe fn launch_on(
        &self,
        stream: &CudaStream,
        launch: &Launch,
        addresses: &[u64],
    ) -> launcher::Result<()> {
        let mut addresses = addresses.iter();
        let next = |_: &Buffer| addresses.next().copied().unwrap_or(0);
        // SAFETY: the caller's contract. Memory is freed in stream order, so it outlives the launch.
        let launched = unsafe { self.gpu.launch_on(stream, launch, next) };
        launched.map_err(|error| self.refused(error))
    }

    /// As [`Launcher::multiply`].
    unsafe fn multiply_on(
        &self,
        stream: &Arc<CudaStream>,
        matmul: &Matmul,
        at: &Operands<u64>,
    ) -> launcher::Result<()> {
        let matmuls = self.matmuls().map_err(|error| self.refused(error))?;
        // SAFETY: the caller's contract. Memory is freed in stream order, so it outlives the product.
        let started = unsafe { matmuls.multiply(stream, matmul, at) };
        let lacks_bias = started.map_err(|error| self.refused(error))?;
        if let Some(sums) = at.sums.filter(|_| lacks_bias) {
            let [first, totals] = column_sums(Float::Bf16, matmul.inner, matmul.rows, "sums")?;
            let partial = self.allocate_on(stream, 4 * parts(matmul.inner) * matmul.rows)?;
            // SAFETY: the factor and the sums have the declared lengths, and so has the memory between both.
            unsafe {
                self.launch_on(stream, &first, &[at.left, partial.address()])?;
                self.launch_on(stream, &totals, &[partial.address(), sums])?;
            }
        }
        match at.bias.filter(|_| lacks_bias) {
            None => Ok(()),
            Some(bias) => {
                let launch = match matmul.out {
                    Float::F32 => add_bias(Float::F32, matmul.rows, matmul.cols)?,
                    Float::Bf16 => add_rounded_bias(matmul.rows, matmul.cols)?,
                };
                // SAFETY: the product and the bias have the declared lengths.
                unsafe { self.launch_on(stream, &launch, &[at.out, bias]) }
            }
        }
    }
}

#[expect(unsafe_code, reason = "driver calls with addresses")]
impl Launcher for Beside {
    fn name(&self) -> String {
        self.gpu.name.clone()
    }

    fn allocate(&self, bytes: usize) -> launcher::Result<Arc<dyn Held>> {
        Ok(self.allocate_on(&self.gpu.stream, bytes)?)
    }

    fn free_bytes(&self) -> launcher::Result<usize> {
        self.call("querying the free memory", || free_bytes(&self.gpu.context))
    }

    fn wait(&self) -> launcher::Result<()> {
        self.gpu.wait().map_err(|error| self.refused(error))
    }

    unsafe fn upload(
        &self,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> launcher::Result<()> {
        let to = (to, bytes);
        // SAFETY: the caller's contract.
        self.call("copying to the device", || unsafe {
            self.staging.upload(&self.gpu.stream, to, fill)
        })
    }

    fn tensor(&self, held: Arc<dyn Held>, shape: &[usize]) -> launcher::Result<Tensor> {
        let used = || DeviceError::Refused {
            device: self.gpu.name.clone(),
            message: "memory for a tensor is still used or belongs to another device".into(),
        };
        let block = held
            .into_any()
            .downcast::<DeviceMemory>()
            .map_err(|_| used())?;
        let block = Arc::into_inner(block).ok_or_else(used)?;
        let address = block.slice.leak();
        // The models' stream owns the memory from here on and frees it after its last use.
        // SAFETY: `Device` has checked that the allocation is large enough. There is no other owner.
        let slice = unsafe {
            let stream = self.tensors.cuda_stream();
            stream.upgrade_device_ptr::<f32>(address, shape.iter().product())
        };
        let storage = CudaStorage::wrap_cuda_slice(slice, self.tensors.clone());
        let shape = Shape::from(shape);
        Ok(Tensor::from_storage(
            Storage::Cuda(storage),
            shape,
            BackpropOp::none(),
            false,
        ))
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> launcher::Result<()> {
        let stream = self.gpu.stream.cu_stream();
        // SAFETY: the caller's contract. The memory is not pinned, so it is read before the call returns.
        self.call("copying to the device", || unsafe {
            result::memcpy_htod_async(to, bytes, stream)
        })
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> launcher::Result<()> {
        let stream = self.gpu.stream.cu_stream();
        // SAFETY: the caller's contract; `bytes` outlives the wait below.
        self.call("copying from the device", || unsafe {
            result::memcpy_dtoh_async(bytes, from, stream)
        })?;
        self.wait()
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> launcher::Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.copy_on(&self.gpu.stream, [to, from], bytes) }
    }

    unsafe fn launch(&self, launch: &Launch, addresses: &[u64]) -> launcher::Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.launch_on(&self.gpu.stream, launch, addresses) }
    }

    unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> launcher::Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.multiply_on(&self.gpu.stream, matmul, at) }
    }

    unsafe fn combine(
        &self,
        operations: &[Operation],
    ) -> launcher::Result<Option<Box<dyn Combined>>> {
        let stream = &self.gpu.stream;
        let recording = self.call(graph::RECORDING, || graph::begin(stream))?;
        let issued = operations.iter().try_for_each(|operation| {
            // SAFETY: the caller's contract.
            unsafe {
                match operation {
                    Operation::Launch(launch, at) => self.launch_on(&recording, launch, at),
                    Operation::Product(matmul, at) => self.multiply_on(&recording, matmul, at),
                    Operation::Copy { to, from, bytes } => {
                        self.copy_on(&recording, [*to, *from], *bytes)
                    }
                }
            }
        });
        // The recording ends whatever happened, so this is no `call`, which an earlier error would prevent.
        let ended = graph::end(&recording, stream, &self.gpu.name);
        issued?;
        let ended = ended.map_err(|error| self.refused(driver(graph::RECORDING)(error)));
        Ok(ended?.map(|graph| Box::new(graph) as Box<dyn Combined>))
    }

    fn without_bias(&self) -> u64 {
        let held = self.matmuls.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map_or(0, |matmuls| matmuls.without_bias())
    }

    fn mark(&self) -> launcher::Result<Option<Mark>> {
        let flags = CUevent_flags::CU_EVENT_DEFAULT;
        let event = self.call("recording an event", || {
            self.gpu.stream.record_event(Some(flags))
        })?;
        Ok(Some(Box::new(event)))
    }

    fn seconds_between(&self, from: &Mark, to: &Mark) -> launcher::Result<f64> {
        let events = [from, to].map(|mark| mark.downcast_ref::<CudaEvent>());
        let [Some(from), Some(to)] = events else {
            return Err(DeviceError::Refused {
                device: self.gpu.name.clone(),
                message: "the marks are those of another device".into(),
            });
        };
        let milliseconds = self.call("reading a time", || from.elapsed_ms(to))?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    unsafe fn write_tensor(&self, to: u64, tensor: &Tensor) -> launcher::Result<()> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            drop(storage);
            // SAFETY: the caller's contract.
            return unsafe { launcher::interface::write_numbers(self, to, tensor) };
        };
        let failed = |error: candle_core::Error| DeviceError::Refused {
            device: self.gpu.name.clone(),
            message: error.to_string(),
        };
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(failed(candle_core::Error::msg(
                "the tensor is not contiguous",
            )));
        };
        let slice = storage.as_cuda_slice::<f32>().map_err(failed)?;
        let (start, bytes) = (start * 4, tensor.elem_count() * 4);
        let (from, _guard) = slice.device_ptr(&self.gpu.stream);
        let models = self.tensors.cuda_stream();
        if !Arc::ptr_eq(&models, &self.gpu.stream) {
            self.call("waiting for the models", || models.synchronize())?;
        }
        // SAFETY: the caller's contract. The tensor was computed on this stream, or before the wait.
        unsafe { self.copy(to, from + start as u64, bytes) }?;
        if Arc::ptr_eq(&models, &self.gpu.stream) {
            return Ok(());
        }
        // The models' stream frees the tensor, so it must not do so before the copy.
        self.call("ordering a copy", || models.join(&self.gpu.stream))
    }
}
