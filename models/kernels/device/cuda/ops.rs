//! Runs launches on Candle's tensors, for the operations' `cuda_fwd` and backward.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendDevice as _;
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr as _, DevicePtrMut as _, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{DType, Error, Layout, Result, Shape, Storage, Tensor};

use super::gpu::Gpu;
use crate::device::launch::{Access, Dtype, Float, Launch};

/// A tensor's memory and the name of its buffer in a launch.
pub type Given<'a> = (&'static str, &'a CudaStorage, &'a Layout);

/// A list of numbers and the name of its buffer in a launch.
pub type List<'a> = (&'static str, Numbers<'a>);

/// The numbers of a list.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// Rows or classes.
    U32(&'a [u32]),
    /// Factors.
    F32(&'a [f32]),
}

impl Numbers<'_> {
    fn upload(self, device: &CudaDevice) -> Result<CudaStorage> {
        match self {
            Self::U32(list) => device.storage_from_slice(list),
            Self::F32(list) => device.storage_from_slice(list),
        }
    }
}

/// Returns the kernels' activation type for a tensor's type.
///
/// # Errors
/// If it is neither f32 nor bf16.
pub fn float(dtype: DType) -> Result<Float> {
    match dtype {
        DType::F32 => Ok(Float::F32),
        DType::BF16 => Ok(Float::Bf16),
        other => candle_core::bail!("expected f32 or bf16 on a GPU, found {other:?}"),
    }
}

/// A tensor's memory that launches modify, divided into named parts.
pub struct Own<'a> {
    storage: &'a mut CudaStorage,
    /// Name, start and length of each part, in elements.
    parts: Vec<(&'static str, usize, usize)>,
}

impl<'a> Own<'a> {
    /// Passes all of a tensor's memory under one name.
    pub fn whole(name: &'static str, storage: &'a mut CudaStorage, len: usize) -> Self {
        Self::parts(storage, vec![(name, 0, len)])
    }

    /// Passes parts of a tensor's memory: name, start and length, in elements. They must not overlap.
    pub fn parts(storage: &'a mut CudaStorage, parts: Vec<(&'static str, usize, usize)>) -> Self {
        Self { storage, parts }
    }
}

/// Runs launches in order and returns the buffers `wanted`.
///
/// # Errors
/// If a tensor is not contiguous or does not match its launch, or if the device refuses.
pub fn run<const N: usize>(
    launches: &[Launch],
    given: &[Given<'_>],
    lists: &[List<'_>],
    wanted: [&'static str; N],
) -> Result<[CudaStorage; N]> {
    let Some((_, first, _)) = given.first() else {
        candle_core::bail!("a launch without tensors");
    };
    let device = first.device.clone();
    let mut held = launch_all(&device, launches, None, given, lists)?;
    let take = |name| {
        held.remove(name)
            .ok_or_else(|| Error::msg(format!("{name}: not written")))
    };
    let all: Vec<CudaStorage> = wanted.into_iter().map(take).collect::<Result<_>>()?;
    all.try_into()
        .map_err(|_| Error::msg("a name occurs twice"))
}

/// Runs launches that modify `own`.
///
/// # Errors
/// As for [`run`].
pub fn run_in(
    launches: &[Launch],
    own: Own<'_>,
    given: &[Given<'_>],
    lists: &[List<'_>],
) -> Result<()> {
    let device = own.storage.device.clone();
    launch_all(&device, launches, Some(own), given, lists)?;
    Ok(())
}

/// Runs launches and returns the buffers allocated for them: all that are neither given nor owned.
fn launch_all(
    device: &CudaDevice,
    launches: &[Launch],
    mut own: Option<Own<'_>>,
    given: &[Given<'_>],
    lists: &[List<'_>],
) -> Result<HashMap<&'static str, CudaStorage>> {
    let gpu = gpu_of(device)?;
    let mut held = HashMap::new();
    for (name, list) in lists {
        held.insert(*name, list.upload(device)?);
    }
    for launch in launches {
        for buffer in launch.buffers() {
            let owned = own.iter().flat_map(|own| &own.parts);
            let known = given.iter().any(|(name, ..)| *name == buffer.name)
                || owned.clone().any(|(name, ..)| *name == buffer.name);
            if !known && !held.contains_key(buffer.name) {
                held.insert(buffer.name, unwritten(device, buffer.dtype, buffer.len)?);
            }
        }
        launch_one(&gpu, launch, own.as_mut(), given, &mut held)?;
    }
    Ok(held)
}

/// Runs launches on tensors and returns the buffers `wanted` as tensors of the given shapes.
///
/// # Errors
/// As for [`run`], and if a tensor is not on a GPU.
pub fn run_on<const N: usize>(
    launches: &[Launch],
    given: &[(&'static str, &Tensor)],
    lists: &[List<'_>],
    wanted: [(&'static str, Shape); N],
) -> Result<[Tensor; N]> {
    let locked: Vec<_> = given
        .iter()
        .map(|(name, t)| (*name, t.storage_and_layout()))
        .collect();
    let mut storages = Vec::new();
    for (name, (storage, layout)) in &locked {
        match &**storage {
            Storage::Cuda(storage) => storages.push((*name, storage, *layout)),
            _ => candle_core::bail!("{name} is not on the GPU of the other arguments"),
        }
    }
    let names = wanted.each_ref().map(|(name, _)| *name);
    let mut shapes = wanted.into_iter().map(|(_, shape)| shape);
    let results = run(launches, &storages, lists, names)?;
    Ok(results.map(|storage| {
        let shape = shapes.next().unwrap_or_else(|| Shape::from(()));
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }))
}

/// Returns the shared [`Gpu`] of a device, which holds its compiled kernels.
fn gpu_of(device: &CudaDevice) -> Result<Arc<Gpu>> {
    static ALL: Mutex<Option<HashMap<DeviceId, Arc<Gpu>>>> = Mutex::new(None);
    let key = device.id();
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    if let Some(gpu) = all.get(&key) {
        return Ok(gpu.clone());
    }
    let stream = device.cuda_stream();
    let gpu = Gpu::on(stream.context().clone(), stream).map_err(Error::wrap)?;
    Ok(all.entry(key).or_insert(Arc::new(gpu)).clone())
}

#[expect(unsafe_code, reason = "the next launch writes all of this memory")]
fn unwritten(device: &CudaDevice, dtype: Dtype, len: usize) -> Result<CudaStorage> {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::U32 => DType::U32,
        other => candle_core::bail!("tensors cannot have type {}", other.name()),
    };
    // SAFETY: launches write their `Write` buffers completely (a test uses poisoned memory) before anything reads them.
    unsafe { device.alloc_uninit(&Shape::from(len), dtype) }
}

#[expect(unsafe_code, reason = "launches a kernel")]
fn launch_one(
    gpu: &Gpu,
    launch: &Launch,
    own: Option<&mut Own<'_>>,
    given: &[Given<'_>],
    held: &mut HashMap<&'static str, CudaStorage>,
) -> Result<()> {
    let stream = gpu.stream();
    // Guards order this launch after the writes of its arguments, on any stream, and before the reads of its results.
    let (mut addresses, mut guards) = (HashMap::new(), Vec::new());
    for (name, storage, layout) in given {
        let Some(buffer) = launch.buffers().find(|buffer| buffer.name == *name) else {
            continue;
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{launch}: {name} is not contiguous");
        };
        if end - start != buffer.len || buffer.access != Access::Read {
            let (found, expected) = (end - start, buffer.len);
            candle_core::bail!("{launch}: {name} has {found} numbers, expected {expected} to read");
        }
        let (address, guard) = address(storage, buffer.dtype, stream)?;
        addresses.insert(*name, address + (start * buffer.dtype.size()) as u64);
        guards.push(guard);
    }
    if let Some(Own { storage, parts }) = own {
        let mut dtype = None;
        for (name, start, len) in parts.iter() {
            let Some(buffer) = launch.buffers().find(|buffer| buffer.name == *name) else {
                continue;
            };
            if *len != buffer.len || dtype.is_some_and(|dtype| dtype != buffer.dtype) {
                let (found, expected) = (*len, buffer.len);
                candle_core::bail!("{launch}: {name} has {found} numbers, expected {expected}");
            }
            dtype = Some(buffer.dtype);
            addresses.insert(*name, (start * buffer.dtype.size()) as u64);
        }
        if let Some(dtype) = dtype {
            let (base, guard) = address_mut(storage, dtype, stream)?;
            for (name, ..) in parts.iter() {
                addresses.entry(*name).and_modify(|at| *at += base);
            }
            guards.push(guard);
        }
    }
    for (name, storage) in held.iter_mut() {
        let Some(buffer) = launch.buffers().find(|buffer| buffer.name == *name) else {
            continue;
        };
        let (address, guard) = match buffer.access {
            Access::Read => address(storage, buffer.dtype, stream)?,
            Access::Write | Access::Update => address_mut(storage, buffer.dtype, stream)?,
        };
        addresses.insert(*name, address);
        guards.push(guard);
    }
    // SAFETY: every buffer is a tensor, a part of one, or allocated here, on this device, with the declared type and length.
    // `own` is borrowed exclusively, so nothing else accesses what is modified.
    unsafe { gpu.launch(launch, |buffer| addresses[buffer.name]) }.map_err(Error::wrap)
}

fn address<'a>(
    storage: &'a CudaStorage,
    dtype: Dtype,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match (&storage.slice, dtype) {
        (CudaStorageSlice::F32(slice), Dtype::F32) => slice.device_ptr(stream),
        (CudaStorageSlice::BF16(slice), Dtype::Bf16) => slice.device_ptr(stream),
        (CudaStorageSlice::U32(slice), Dtype::U32) => slice.device_ptr(stream),
        _ => candle_core::bail!("a tensor's type is not {}", dtype.name()),
    })
}

fn address_mut<'a>(
    storage: &'a mut CudaStorage,
    dtype: Dtype,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match (&mut storage.slice, dtype) {
        (CudaStorageSlice::F32(slice), Dtype::F32) => slice.device_ptr_mut(stream),
        (CudaStorageSlice::BF16(slice), Dtype::Bf16) => slice.device_ptr_mut(stream),
        (CudaStorageSlice::U32(slice), Dtype::U32) => slice.device_ptr_mut(stream),
        _ => candle_core::bail!("a tensor's type is not {}", dtype.name()),
    })
}
