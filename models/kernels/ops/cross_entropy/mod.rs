//! Mean softmax cross-entropy of the removed patches against their ids, smoothed as PyTorch's.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::values::{floats, read, tensor_like};

/// Mean over rows of `-sum_c q_c log softmax(scores)_c`, where `q` is 1 at the row's id, or with label smoothing
/// `1 - smoothing + smoothing / classes` there and `smoothing / classes` elsewhere.
///
/// # Shapes
/// `scores` `[rows, classes]` f32 or bf16 of the predicted patches only, `ids` of each row; returns a scalar, f32.
///
/// # Errors
/// When `scores` has another type, there are not as many ids as rows, or an id is no class.
pub fn cross_entropy(scores: &Tensor, ids: Vec<u32>, smoothing: f32) -> Result<Tensor> {
    let (rows, classes) = scores.dims2()?;
    if ids.len() != rows || rows == 0 {
        candle_core::bail!("cross-entropy: {rows} rows of scores, {} ids", ids.len());
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= classes) {
        candle_core::bail!("cross-entropy: id {id} is not in 0..{classes}");
    }
    scores
        .contiguous()?
        .apply_op1(CrossEntropy { ids, smoothing })
}

struct CrossEntropy {
    ids: Vec<u32>,
    smoothing: f32,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = floats("cross-entropy", scores, layout)?;
        let loss = cpu::forward(&scores, &self.ids, self.smoothing);
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, scores: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let scores = ("scores", scores, layout);
        let loss = cuda::forward(scores, &self.ids, self.smoothing)?;
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, scores: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if scores.device().is_cuda() {
            let dx = cuda::backward(scores, &self.ids, self.smoothing, &grad.contiguous()?)?;
            return Ok(Some(dx));
        }
        let upstream = grad.to_scalar::<f32>()?;
        let dx = cpu::backward(&read(scores)?, &self.ids, self.smoothing, upstream);
        Ok(Some(tensor_like(dx, scores)?))
    }
}
