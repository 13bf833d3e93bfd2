//! The product of two matrices, without a gradient.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::product::{Mat, product_on_all_threads};

/// Computes `a b`. On a CPU its sums do not depend on the caches of the processor, as those of Candle's product do.
///
/// # Shapes
/// `a` `[rows, inner]` and `b` `[inner, cols]` f32, each contiguous or the transpose of a contiguous one; returns `[rows, cols]`.
///
/// # Errors
/// If an argument has another type, or sizes differ.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match a.device().is_cpu() {
        true => a.apply_op2_no_bwd(b, &Product),
        false => a.matmul(b),
    }
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inner), (from, cols)) = (la.shape().dims2()?, lb.shape().dims2()?);
        if inner != from {
            candle_core::bail!("matmul: {:?} by {:?}", la.shape(), lb.shape());
        }
        let numbers = product_on_all_threads(matrix(a, la)?, matrix(b, lb)?);
        Ok((CpuStorage::F32(numbers), (rows, cols).into()))
    }
}

fn matrix<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Mat<'a>> {
    let (rows, cols) = layout.shape().dims2()?;
    match (storage, layout.stride()) {
        (CpuStorage::F32(all), &[row_stride, 1]) => {
            let all = &all[layout.start_offset()..];
            Ok(Mat::strided(all, rows, cols, row_stride))
        }
        (CpuStorage::F32(all), &[1, col_stride]) => {
            let all = &all[layout.start_offset()..];
            Ok(Mat::strided(all, cols, rows, col_stride).t())
        }
        (other, stride) => candle_core::bail!(
            "matmul: expected a contiguous f32 matrix or its transpose, found {:?} of strides {stride:?}",
            other.dtype()
        ),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn products_equal_those_of_candle() {
        let drawn = |shape: (usize, usize)| Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).unwrap();
        for (rows, inner, cols) in [(3, 5, 7), (1, 4, 1), (70, 600, 90)] {
            let (a, b) = (drawn((rows, inner)), drawn((inner, cols)));
            let (a_t, b_t) = (drawn((inner, rows)), drawn((cols, inner)));
            let (a_t, b_t) = (a_t.t().unwrap(), b_t.t().unwrap());
            for (a, b) in [(&a, &b), (&a_t, &b_t), (&a, &b_t), (&a_t, &b)] {
                let apart = (matmul(a, b).unwrap() - a.matmul(b).unwrap()).unwrap();
                let apart = apart.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
                let apart: f32 = apart.to_scalar().unwrap();
                assert!(apart < 1e-3, "{rows} {inner} {cols}: {apart}");
            }
        }
        let (a, b) = (drawn((2, 3)), drawn((4, 2)));
        assert!(matmul(&a, &b).is_err());
        assert!(matmul(&a, &a.t().unwrap().to_dtype(DType::F64).unwrap()).is_err());
    }
}
