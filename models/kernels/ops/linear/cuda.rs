//! Linear layers on a GPU. cuBLAS computes the products, with f32 sums.

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::CudaStorage;
use candle_core::{Error, Layout, Result, Tensor};

use super::launch;
use crate::device::cuda::ops::{Given, Own, float, run_in, run_on};

/// Returns `x W^T`, plus the bias if there is one.
pub fn forward(
    (x, lx): (&CudaStorage, &Layout),
    (weight, lw): (&CudaStorage, &Layout),
    bias: Option<Given<'_>>,
    [rows, from, to]: [usize; 3],
) -> Result<CudaStorage> {
    let lx = Layout::contiguous_with_offset((rows, from), lx.start_offset());
    let lw = Layout::contiguous_with_offset((to, from), lw.start_offset()).transpose(0, 1)?;
    let mut y = x.matmul(weight, (1, rows, to, from), &lx, &lw)?;
    if let Some(bias) = bias {
        let launch = launch::add_bias(float(y.dtype())?, rows, to).map_err(Error::wrap)?;
        let own = Own::whole("x", &mut y, rows * to);
        run_in(&[launch], own, &[bias], &[])?;
    }
    Ok(y)
}

/// Returns the sum of all rows of `grad`, in the shape of the bias.
pub fn column_sums(grad: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let dim = bias.elem_count();
    let rows = grad.elem_count() / dim;
    let launches =
        launch::column_sums(float(grad.dtype())?, rows, dim, "sums").map_err(Error::wrap)?;
    let wanted = [("sums", bias.shape().clone())];
    let [sums] = run_on(&launches, &[("x", grad)], &[], wanted)?;
    Ok(sums)
}
