//! The backward with Candle's products, used on a GPU.

use candle_core::{Result, Tensor};

/// Returns the gradients of the input, if it is part of a graph, and of the weight.
pub fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
    let (to, from) = weight.dims2()?;
    let rows = x.elem_count() / from;
    let grad = grad.detach().reshape((rows, to))?;
    let dx = match x.track_op() {
        true => Some(grad.matmul(&weight.detach())?.reshape(x.shape())?),
        false => None,
    };
    let dw = grad.t()?.matmul(&x.detach().reshape((rows, from))?)?;
    Ok((dx, dw))
}
