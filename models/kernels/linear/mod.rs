//! `y = x W^T + b`, one matrix product forward and two backward.

mod cpu;
pub mod launch;
#[cfg(test)]
pub(super) mod reference;

pub(super) use cpu::{backward_weight, backward_x, column_sums, forward, forward_bias};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{read, tensor};

/// `x W^T + b` over the last dimension; without `bias`, `x W^T`.
///
/// # Shapes
/// `x` `[..., from]`, `weight` `[to, from]`, `bias` `[to]`; returns `[..., to]`.
///
/// # Errors
/// When an argument is not f32 or the dimensions differ.
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
    if x.device().is_cuda() {
        return on_gpu(x, weight, bias);
    }
    let x = x.contiguous()?;
    let weight = weight.contiguous()?;
    match bias {
        Some(bias) => x.apply_op3(&weight, bias, Linear),
        None => x.apply_op2(&weight, Linear),
    }
}

/// By cuBLAS; gradients come by Candle's graph.
pub(super) fn on_gpu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (to, from) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(to);
    let rows = x.elem_count() / from;
    let y = x.reshape((rows, from))?.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias)?.reshape(shape),
        None => y.reshape(shape),
    }
}

struct Linear;

/// The output's shape, and `[rows, from, to]`.
fn sizes(x: &Layout, weight: &Layout) -> Result<(Shape, [usize; 3])> {
    let (to, from) = weight.shape().dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(to);
    Ok((shape.into(), [x.shape().elem_count() / from, from, to]))
}

/// Gradients of input, where something below it is to be learned, and weight.
fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
    let (to, from) = weight.dims2()?;
    let (xs, ws, gs) = (read(x)?, read(weight)?, read(grad)?);
    let rows = xs.len() / from;
    let dx = match x.track_op() {
        true => Some(tensor(
            cpu::backward_x(&gs, &ws, [rows, from, to]),
            x.shape(),
        )?),
        false => None,
    };
    let dw = tensor(cpu::backward_weight(&gs, &xs, [rows, from, to]), (to, from))?;
    Ok((dx, dw))
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
        let x = super::values("linear", x, lx)?;
        let weight = super::values("linear", weight, lw)?;
        Ok((CpuStorage::F32(cpu::forward(x, weight, sizes)), shape))
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
        let x = super::values("linear-bias", x, lx)?;
        let weight = super::values("linear-bias", weight, lw)?;
        let bias = super::values("linear-bias", bias, lb)?;
        let y = cpu::forward_bias(x, weight, bias, sizes);
        Ok((CpuStorage::F32(y), shape))
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
        let db = cpu::column_sums(&read(&grad)?, bias.elem_count());
        Ok((dx, Some(dw), Some(tensor(db, bias.shape())?)))
    }
}
