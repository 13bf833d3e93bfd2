//! Mean softmax cross-entropy of the masked patches' scores, with label smoothing as in PyTorch.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::values::{floats, read, tensor_like};

/// Computes the mean over rows of `-sum_c q_c log softmax(scores)_c`. `q` is 1 at the row's id; with label smoothing, it is
/// `1 - smoothing + smoothing / classes` there and `smoothing / classes` elsewhere.
///
/// # Shapes
/// `scores` `[rows, classes]` f32 or bf16 of the predicted patches, `ids` `[rows]`; returns an f32 scalar.
///
/// # Errors
/// If `scores` has another type, the number of ids differs from the number of rows, or an id is not below `classes`.
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
