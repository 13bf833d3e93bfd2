//! `y = x W^T + b`: one matrix product forward and two backward.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod launch;
#[cfg(any(test, feature = "cuda"))]
pub(super) mod products;
#[cfg(test)]
pub(crate) mod reference;

pub(super) use cpu::{backward_weight, backward_x, forward, with_sums};

use candle_core::backend::BackendStorage as _;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::values::{floats, operand, read, stored, stored_numbers, tensor, tensor_like};
use crate::product::{Rounding, Start};

/// Computes `x W^T + b` over the last dimension; without `bias`, `x W^T`. The product is in the weight's type, with f32 sums.
///
/// # Shapes
/// `x` `[..., from]` and `weight` `[to, from]` f32 or bf16, `bias` `[to]` f32; returns `[..., to]` of the weight's type, or f32 if `x` is
/// f32 on the CPU: numbers are then rounded for the products only.
///
/// # Errors
/// If an argument has another type or the dimensions differ.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (to, from) = weight.dims2()?;
    if x.dims().last() != Some(&from) || bias.is_some_and(|b| b.dims() != [to]) {
        let bias = bias.map(Tensor::dims);
        candle_core::bail!(
            "linear: x {:?}, weight {:?}, bias {bias:?}",
            x.dims(),
            weight.dims()
        );
    }
    let rounds_itself = x.device().is_cpu() && x.dtype() == DType::F32;
    let x = match rounds_itself {
        true => x.contiguous()?,
        false => x.to_dtype(weight.dtype())?.contiguous()?,
    };
    let weight = weight.contiguous()?;
    match bias {
        Some(bias) => x.apply_op3(&weight, bias, Linear),
        None => x.apply_op2(&weight, Linear),
    }
}

struct Linear;

/// Returns the output's shape and `[rows, from, to]`.
fn sizes(x: &Layout, weight: &Layout) -> Result<(Shape, [usize; 3])> {
    let (to, from) = weight.shape().dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(to);
    Ok((shape.into(), [x.shape().elem_count() / from, from, to]))
}

/// Computes the product on the CPU, in the weight's type.
fn on_cpu(
    op: &str,
    (x, lx): (&CpuStorage, &Layout),
    (weight, lw): (&CpuStorage, &Layout),
    start: Start<'_>,
    [rows, from, to]: [usize; 3],
) -> Result<Vec<f32>> {
    let weight = operand(op, weight, lw, [to, from], Rounding::Exact)?;
    let x = operand(op, x, lx, [rows, from], weight.rounding())?;
    Ok(cpu::forward(&x, &weight, start))
}

/// Returns the gradients of the input, if it is part of a graph, and of the weight.
fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
    let (to, from) = weight.dims2()?;
    let rows = x.elem_count() / from;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return products::backward(x, weight, grad);
    }
    let (xs, ws, gs) = (
        stored_numbers(x)?,
        stored_numbers(weight)?,
        stored_numbers(grad)?,
    );
    let ws = ws.operand([to, from], Rounding::Exact);
    let rounding = ws.rounding();
    let gs = gs.operand([rows, to], rounding);
    let dx = match x.track_op() {
        true => Some(tensor_like(cpu::backward_x(&gs, &ws), x)?),
        false => None,
    };
    let dw = cpu::backward_weight(&gs, &xs.operand([rows, from], rounding));
    Ok((dx, tensor_like(dw, weight)?))
}

/// Returns the gradient of a bias in f32.
fn backward_bias(grad: &Tensor, bias: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return cuda::column_sums(grad, bias);
    }
    let (_, sums) = cpu::with_sums(&read(grad)?, bias.elem_count(), Rounding::Exact);
    tensor(sums, bias.shape())
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (shape, sizes) = sizes(lx, lw)?;
        let y = on_cpu("linear", (x, lx), (weight, lw), Start::Zero, sizes)?;
        Ok((stored(y, x.dtype()), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        weight: &CudaStorage,
        lw: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (shape, sizes) = sizes(lx, lw)?;
        Ok((cuda::forward((x, lx), (weight, lw), None, sizes)?, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = backward(x, weight, &grad.contiguous()?)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (shape, sizes) = sizes(lx, lw)?;
        let bias = floats("linear-bias", bias, lb)?;
        let start = Start::Row(&bias);
        let y = on_cpu("linear-bias", (x, lx), (weight, lw), start, sizes)?;
        Ok((stored(y, x.dtype()), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        weight: &CudaStorage,
        lw: &Layout,
        bias: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (shape, sizes) = sizes(lx, lw)?;
        let bias = Some(("bias", bias, lb));
        Ok((cuda::forward((x, lx), (weight, lw), bias, sizes)?, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dw) = backward(x, weight, &grad)?;
        Ok((dx, Some(dw), Some(backward_bias(&grad, bias)?)))
    }
}
