//! Matrix products by cuBLASLt, whose kernels add the bias and the residual, and sum the gradient of a bias. Where a build of the library has
//! no kernel with a bias or its gradient for a product, other launches compute it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

use super::gpu::{GpuError, Result, driver};
use crate::device::launch::Float;
use crate::device::matmul::{ALIGNMENT, Form, Matmul, Operands};

/// NVIDIA's recommendation for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// cuBLASLt on a stream, with the algorithm of every product that was computed.
pub struct Matmuls {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: CudaSlice<u8>,
    plans: Mutex<HashMap<Key, Plan>>,
    /// Products whose bias or sums other launches had to compute.
    without_bias: AtomicU64,
}

/// What an algorithm is chosen for: a product, the alignment of its bias or sums as a power of two (the library trusts it), and whether it
/// has a residual.
type Key = (Matmul, Option<u32>, bool);

/// Descriptors and algorithm of a product.
struct Plan {
    described: Described,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Whether the kernel adds the bias, or sums its gradient.
    has_epilogue: bool,
}

/// Descriptors of a product.
struct Described {
    matmul: sys::cublasLtMatmulDesc_t,
    /// Layouts of the first and second factor in cuBLASLt's order, and of the product.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

#[expect(unsafe_code, reason = "calls the library")]
// SAFETY: the library's handles may be used by any thread, one at a time for a plan, which the lock ensures.
unsafe impl Send for Matmuls {}
#[expect(unsafe_code, reason = "calls the library")]
// SAFETY: as above.
unsafe impl Sync for Matmuls {}

fn failed(call: impl std::fmt::Display) -> impl Fn(CublasError) -> GpuError {
    move |error| GpuError::Driver {
        call: format!("cuBLASLt, {call}"),
        code: format!("{:?}", error.0),
        remedy: "",
    }
}

fn is_not_supported(error: &CublasError) -> bool {
    error.0 == sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
}

impl Matmuls {
    /// Opens the library for products on `stream`.
    ///
    /// # Errors
    /// If the library refuses or memory is exhausted.
    #[expect(unsafe_code, reason = "allocates memory without a value")]
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        let bound = stream.context().bind_to_thread();
        bound.map_err(driver("binding the context"))?;
        // SAFETY: products write the workspace before they read it.
        let workspace = unsafe { stream.alloc(WORKSPACE_BYTES) };
        Ok(Self {
            workspace: workspace.map_err(driver("allocating a workspace"))?,
            handle: result::create_handle().map_err(failed("opening it"))?,
            stream,
            plans: Mutex::default(),
            without_bias: AtomicU64::new(0),
        })
    }

    /// Returns how many products had a bias or sums that other launches had to compute.
    pub fn without_bias(&self) -> u64 {
        self.without_bias.load(Ordering::Relaxed)
    }

    /// Starts a product on `stream`, which is that of the other products, or records operations that will run on it. Returns whether the bias
    /// must still be added, or the sums computed.
    ///
    /// # Errors
    /// If a matrix is not aligned to 256 bytes or the library has no algorithm.
    ///
    /// # Safety
    /// As for [`Launcher::multiply`](crate::device::launcher::Launcher::multiply).
    #[expect(unsafe_code, reason = "the caller vouches for addresses")]
    pub unsafe fn multiply(
        &self,
        stream: &CudaStream,
        matmul: &Matmul,
        at: &Operands<u64>,
    ) -> Result<bool> {
        let matrices = [
            ("left", Some(at.left)),
            ("right", Some(at.right)),
            ("residual", at.residual),
            ("out", Some(at.out)),
        ];
        for (name, address) in matrices {
            if let Some(address) = address.filter(|at| !at.is_multiple_of(ALIGNMENT)) {
                return Err(GpuError::Unaligned {
                    kernel: matmul.to_string(),
                    name,
                    address,
                });
            }
        }
        let bound = self.stream.context().bind_to_thread();
        bound.map_err(driver("binding the context"))?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let vector = at.bias.or(at.sums);
        let aligned = vector.map(|at| at.trailing_zeros().min(ALIGNMENT.ilog2()));
        let key = (*matmul, aligned, at.residual.is_some());
        let plan = match plans.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.plan(matmul, vector)?),
        };
        // SAFETY: the caller's contract.
        let mut started = unsafe { self.start(stream, plan, matmul, at) };
        if plan.has_epilogue && started.as_ref().is_err_and(is_not_supported) {
            *plan = self.plan(matmul, None)?;
            // SAFETY: as above.
            started = unsafe { self.start(stream, plan, matmul, at) };
        }
        started.map_err(failed("a product"))?;
        let lacks_bias = vector.is_some() && !plan.has_epilogue;
        self.without_bias
            .fetch_add(u64::from(lacks_bias), Ordering::Relaxed);
        Ok(lacks_bias)
    }

    /// Starts a product with its plan.
    ///
    /// # Safety
    /// As for [`multiply`](Self::multiply).
    #[expect(unsafe_code, reason = "the caller vouches for addresses")]
    unsafe fn start(
        &self,
        stream: &CudaStream,
        plan: &Plan,
        matmul: &Matmul,
        at: &Operands<u64>,
    ) -> std::result::Result<(), CublasError> {
        let alpha = 1.0_f32;
        let beta = f32::from(matmul.add || at.residual.is_some());
        let address = |at: u64| at as *const c_void;
        let [first, second, product] = plan.described.layouts;
        // SAFETY: the caller vouches for addresses; layouts and descriptor live as long as `self`.
        unsafe {
            if let Some(vector) = at.bias.or(at.sums).filter(|_| plan.has_epilogue) {
                set(
                    plan.described.matmul,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &vector,
                )?;
            }
            result::matmul(
                self.handle,
                plan.described.matmul,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                address(at.right),
                first,
                address(at.left),
                second,
                address(at.residual.unwrap_or(at.out)),
                product,
                at.out as *mut c_void,
                product,
                &raw const plan.algorithm,
                self.workspace.device_ptr(&self.stream).0 as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
    }

    /// Chooses an algorithm, without the vector of a bias or sums if the library has none with it.
    fn plan(&self, of: &Matmul, vector: Option<u64>) -> Result<Plan> {
        let refused = failed(format!("choosing an algorithm for {of}"));
        match self.choose(of, vector) {
            Err(error) if vector.is_some() && is_not_supported(&error) => {
                self.choose(of, None).map_err(refused)
            }
            plan => plan.map_err(refused),
        }
    }

    /// Chooses an algorithm. The library stores matrices column by column, so it computes the transposed product with the factors swapped.
    #[expect(unsafe_code, reason = "calls the library")]
    fn choose(&self, of: &Matmul, vector: Option<u64>) -> std::result::Result<Plan, CublasError> {
        let described = Described::of(of, vector)?;
        let pref = result::create_matmul_pref()?;
        let [first, second, product] = described.layouts;
        let workspace = WORKSPACE_BYTES;
        // SAFETY: the descriptors exist; attributes have the types of cublasLt.h.
        let chosen = unsafe {
            let [bytes, scheme] = [
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            ];
            let set = |which, value: *const c_void, size| {
                result::set_matmul_pref_attribute(pref, which, value, size)
            };
            // Partial sums of a product stay f32.
            let f32_sums =
                sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            set(bytes, (&raw const workspace).cast(), size_of::<usize>())
                .and_then(|()| set(scheme, (&raw const f32_sums).cast(), size_of::<u32>()))
                .and_then(|()| {
                    result::get_matmul_algo_heuristic(
                        self.handle,
                        described.matmul,
                        first,
                        second,
                        product,
                        product,
                        pref,
                    )
                })
        };
        // SAFETY: created above and not used again.
        let freed = unsafe { result::destroy_matmul_pref(pref) };
        let algorithm = chosen?.algo;
        freed?;
        Ok(Plan {
            described,
            algorithm,
            has_epilogue: vector.is_some(),
        })
    }
}

impl Described {
    /// Creates the descriptors of a product.
    #[expect(unsafe_code, reason = "calls the library")]
    fn of(of: &Matmul, vector: Option<u64>) -> std::result::Result<Self, CublasError> {
        let [m, n, k] = [of.rows, of.cols, of.inner].map(|size| size as u64);
        let (bf16, f32) = (
            sys::cudaDataType::CUDA_R_16BF,
            sys::cudaDataType::CUDA_R_32F,
        );
        let (first, transposes) = match of.form {
            Form::Output => ([k, n], [1_i32, 0]),
            Form::Input => ([n, k], [0, 0]),
            Form::Weight => ([n, k], [0, 1]),
        };
        let second = match of.form {
            Form::Weight => [m, k],
            _ => [k, m],
        };
        let out = match of.out {
            Float::F32 => f32,
            Float::Bf16 => bf16,
        };
        let layout = |dtype, [rows, cols]: [u64; 2]| {
            result::create_matrix_layout(dtype, rows, cols, rows as i64)
        };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let described = Self {
            matmul: result::create_matmul_desc(compute, f32)?,
            layouts: [
                layout(bf16, first)?,
                layout(bf16, second)?,
                layout(out, [n, m])?,
            ],
        };
        let epilogue = match vector {
            // The library's second factor is `left`.
            Some(_) if of.form == Form::Weight => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
            Some(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            None => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        let [left, right] = transposes;
        // SAFETY: the descriptor was created above; attributes have the types of cublasLt.h.
        unsafe {
            set(
                described.matmul,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                &left,
            )?;
            set(
                described.matmul,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSB,
                &right,
            )?;
            set(
                described.matmul,
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                &epilogue,
            )?;
            if let Some(vector) = vector {
                set(
                    described.matmul,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &vector,
                )?;
            }
        }
        Ok(described)
    }
}

impl Drop for Described {
    #[expect(unsafe_code, reason = "calls the library")]
    fn drop(&mut self) {
        // SAFETY: each was created once. A failure cannot be handled here.
        unsafe {
            result::destroy_matmul_desc(self.matmul).ok();
            for layout in self.layouts {
                result::destroy_matrix_layout(layout).ok();
            }
        }
    }
}

/// Sets an attribute.
///
/// # Safety
/// `matmul` must exist, and `value` must have the attribute's type.
#[expect(unsafe_code, reason = "calls the library")]
unsafe fn set<T>(
    matmul: sys::cublasLtMatmulDesc_t,
    attribute: Attribute,
    value: &T,
) -> std::result::Result<(), CublasError> {
    let value: *const T = value;
    // SAFETY: the caller's contract.
    unsafe { result::set_matmul_desc_attribute(matmul, attribute, value.cast(), size_of::<T>()) }
}

impl Drop for Matmuls {
    #[expect(unsafe_code, reason = "calls the library")]
    fn drop(&mut self) {
        // The thread may have no context. A failure cannot be handled here.
        self.stream.context().bind_to_thread().ok();
        self.plans
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        // SAFETY: created once.
        unsafe { result::destroy_handle(self.handle).ok() };
    }
}
