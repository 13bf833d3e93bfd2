//! Matrix products by cuBLASLt, whose kernels add the bias and the residual. Where a build of the library has no kernel with a bias for a
//! product, another launch adds it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};
use sys::cublasLtMatmulDescAttributes_t as Attribute;

use super::gpu::{GpuError, Result, driver};
use crate::device::launch::Float;
use crate::device::matmul::{Form, Matmul, Operands};

/// NVIDIA's recommendation for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Alignment in bytes that cuBLASLt assumes when it chooses an algorithm.
const ALIGNMENT: u64 = 256;

/// cuBLASLt on a stream, with the algorithm of every product that was computed.
pub struct Matmuls {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: CudaSlice<u8>,
    plans: Mutex<HashMap<(Matmul, bool, bool), Plan>>,
}

/// Descriptors and algorithm of a product.
struct Plan {
    matmul: sys::cublasLtMatmulDesc_t,
    /// Layouts of the first and second factor in cuBLASLt's order, and of the product.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Whether the kernel adds the bias.
    adds_bias: bool,
}

#[expect(unsafe_code, reason = "calls the library")]
// SAFETY: the library's handles may be used by any thread, one at a time for a plan, which the lock ensures.
unsafe impl Send for Matmuls {}
#[expect(unsafe_code, reason = "calls the library")]
// SAFETY: as above.
unsafe impl Sync for Matmuls {}

fn failed(call: &'static str) -> impl Fn(CublasError) -> GpuError {
    move |error| GpuError::Driver {
        call: format!("cuBLASLt, {call}"),
        code: format!("{:?}", error.0),
        remedy: "",
    }
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
        let workspace = unsafe { stream.alloc(WORKSPACE) };
        Ok(Self {
            workspace: workspace.map_err(driver("allocating a workspace"))?,
            handle: result::create_handle().map_err(failed("opening it"))?,
            stream,
            plans: Mutex::default(),
        })
    }

    /// Starts a product. Returns whether the bias, if there is one, must still be added.
    ///
    /// # Errors
    /// If a matrix is not aligned to 256 bytes or the library has no algorithm.
    ///
    /// # Safety
    /// As for [`Launcher::multiply`](crate::device::launcher::Launcher::multiply).
    #[expect(unsafe_code, reason = "the caller vouches for addresses")]
    pub unsafe fn multiply(&self, matmul: &Matmul, at: &Operands<u64>) -> Result<bool> {
        let matrices = [
            ("left", Some(at.left)),
            ("right", Some(at.right)),
            ("residual", at.residual),
            ("out", Some(at.out)),
        ];
        for (name, address) in matrices {
            if let Some(address) = address.filter(|at| at % ALIGNMENT != 0) {
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
        let key = (*matmul, at.bias.is_some(), at.residual.is_some());
        if !plans.contains_key(&key) {
            plans.insert(key, self.plan(matmul, at.bias.is_some())?);
        }
        let plan = &plans[&key];
        let alpha = 1.0_f32;
        let beta = f32::from(matmul.add || at.residual.is_some());
        let address = |at: u64| at as *const c_void;
        let [first, second, product] = plan.layouts;
        // SAFETY: the caller vouches for addresses; layouts and descriptor live as long as `self`.
        let started = unsafe {
            if let Some(bias) = at.bias.filter(|_| plan.adds_bias) {
                let set = set(
                    plan.matmul,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &bias,
                );
                set.map_err(failed("setting a bias"))?;
            }
            result::matmul(
                self.handle,
                plan.matmul,
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
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        };
        started.map_err(failed("a product"))?;
        Ok(at.bias.is_some() && !plan.adds_bias)
    }

    /// Chooses an algorithm, without the bias if there is none with it.
    fn plan(&self, of: &Matmul, bias: bool) -> Result<Plan> {
        match self.plan_with(of, bias) {
            Err(_) if bias => self.plan_with(of, false),
            plan => plan,
        }
    }

    /// Chooses an algorithm. The library stores matrices column by column, so it computes the transposed product with the factors swapped.
    #[expect(unsafe_code, reason = "calls the library")]
    fn plan_with(&self, of: &Matmul, bias: bool) -> Result<Plan> {
        let [m, n, k] = [of.rows, of.cols, of.inner].map(|size| size as u64);
        let bf16 = sys::cudaDataType::CUDA_R_16BF;
        let f32 = sys::cudaDataType::CUDA_R_32F;
        let (first, transposes) = match of.form {
            Form::Output => ([k, n], [1_i32, 0]),
            Form::Input => ([n, k], [0, 0]),
            Form::Weight => ([n, k], [0, 1]),
        };
        let second = if of.form == Form::Weight {
            [m, k]
        } else {
            [k, m]
        };
        let out = match of.out {
            Float::F32 => f32,
            Float::Bf16 => bf16,
        };
        let layout = |dtype, [rows, cols]: [u64; 2]| {
            result::create_matrix_layout(dtype, rows, cols, rows as i64)
        };
        let planning = failed("choosing an algorithm");
        let layouts = [
            layout(bf16, first),
            layout(bf16, second),
            layout(out, [n, m]),
        ];
        let [first, second, product] = layouts;
        let layouts = [
            first.map_err(&planning)?,
            second.map_err(&planning)?,
            product.map_err(&planning)?,
        ];
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let matmul = result::create_matmul_desc(compute, f32).map_err(&planning)?;
        let pref = result::create_matmul_pref().map_err(&planning)?;
        // SAFETY: all descriptors were created above; attributes have the types of cublasLt.h.
        let heuristic = unsafe {
            let [left, right] = transposes;
            set(matmul, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &left)
                .and_then(|()| set(matmul, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &right))
                .and_then(|()| {
                    let epilogue = match bias {
                        true => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
                        false => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
                    };
                    set(matmul, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)
                })
                .and_then(|()| {
                    let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
                    let bytes: *const usize = &WORKSPACE;
                    result::set_matmul_pref_attribute(pref, most, bytes.cast(), size_of::<usize>())
                })
                .and_then(|()| {
                    let [first, second, product] = layouts;
                    let handle = self.handle;
                    result::get_matmul_algo_heuristic(
                        handle, matmul, first, second, product, product, pref,
                    )
                })
        };
        // SAFETY: created above and not used again.
        let freed = unsafe { result::destroy_matmul_pref(pref) };
        let heuristic = heuristic.map_err(|error| GpuError::Driver {
            call: format!("cuBLASLt, choosing an algorithm for {of}"),
            code: format!("{:?}", error.0),
            remedy: "",
        })?;
        freed.map_err(planning)?;
        Ok(Plan {
            matmul,
            layouts,
            algorithm: heuristic.algo,
            adds_bias: bias,
        })
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
        let plans = self.plans.get_mut().unwrap_or_else(PoisonError::into_inner);
        for plan in plans.values() {
            // SAFETY: each was created once. A failure cannot be handled here.
            unsafe {
                result::destroy_matmul_desc(plan.matmul).ok();
                for layout in plan.layouts {
                    result::destroy_matrix_layout(layout).ok();
                }
            }
        }
        // SAFETY: as above.
        unsafe { result::destroy_handle(self.handle).ok() };
    }
}
