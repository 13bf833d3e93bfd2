//! Linear layers in bf16 on a device, without a graph.

use super::launch;
use crate::device::launch::{Dtype, Float};
use crate::device::launcher::{Device, Memory, Result};
use crate::device::matmul::{Form, Matmul, Operands};

/// The place of a gradient, f32.
#[derive(Clone, Copy)]
pub struct Sum<'a> {
    /// Memory of the gradient's length.
    pub to: &'a Memory,
    /// Add the gradient to what the memory holds.
    pub add: bool,
}

/// Sizes of a layer: rows of the input, its width, and the output's width.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rows of input and output.
    pub rows: usize,
    /// Numbers per row of the input.
    pub from: usize,
    /// Numbers per row of the output.
    pub to: usize,
}

impl Sizes {
    fn matmul(self, form: Form, [rows, cols, inner]: [usize; 3], out: Float, add: bool) -> Matmul {
        Matmul {
            form,
            rows,
            cols,
            inner,
            out,
            add,
        }
    }
}

/// Returns `x W^T` of `x` and `W` in bf16, plus a bias `[to]` and a residual `[rows, to]`. These and the result have the type of the
/// residual, f32 or bf16; without one, bf16.
///
/// # Errors
/// Errors of the device.
pub fn forward(
    device: &Device,
    sizes: Sizes,
    [x, weight]: [&Memory; 2],
    bias: Option<&Memory>,
    residual: Option<&Memory>,
) -> Result<Memory> {
    let Sizes { rows, from, to } = sizes;
    let float = residual.map_or(Float::Bf16, Memory::float);
    let out = device.room(float.dtype(), rows * to)?;
    let matmul = sizes.matmul(Form::Output, [rows, to, from], float, false);
    let operands = Operands {
        bias,
        residual,
        ..Operands::new(x, weight, &out)
    };
    device.multiply(&matmul, operands)?;
    Ok(out)
}

/// Returns the gradient of the input from `grad` `[rows, to]`.
///
/// # Errors
/// Errors of the device.
pub fn backward_input(
    device: &Device,
    sizes: Sizes,
    [grad, weight]: [&Memory; 2],
) -> Result<Memory> {
    let Sizes { rows, from, to } = sizes;
    let out = device.room(Dtype::Bf16, rows * from)?;
    let matmul = sizes.matmul(Form::Input, [rows, from, to], Float::Bf16, false);
    device.multiply(&matmul, Operands::new(grad, weight, &out))?;
    Ok(out)
}

/// Computes the gradient of the weight, and that of the bias with it.
///
/// # Errors
/// Errors of the device.
pub fn backward_weight(
    device: &Device,
    sizes: Sizes,
    [grad, x]: [&Memory; 2],
    sum: Sum<'_>,
    bias: Option<Sum<'_>>,
) -> Result<()> {
    let Sizes { rows, from, to } = sizes;
    let matmul = sizes.matmul(Form::Weight, [to, from, rows], Float::F32, sum.add);
    // A product adds to its own result, but not to the sums.
    let new = match bias {
        Some(bias) if bias.add => Some(device.room(Dtype::F32, to)?),
        _ => None,
    };
    let operands = Operands {
        sums: new.as_ref().or(bias.map(|bias| bias.to)),
        ..Operands::new(grad, x, sum.to)
    };
    device.multiply(&matmul, operands)?;
    match (bias, new) {
        (Some(bias), Some(new)) => add_up(device, &new, 1, to, bias),
        _ => Ok(()),
    }
}

/// Sums the rows `list` of `x` `[rows, dim]` in bf16 into `[dim]`: the gradient of a vector that is added to these rows.
///
/// # Errors
/// Errors of the device.
pub fn sums_of_rows(
    device: &Device,
    x: &Memory,
    list: &Memory,
    dim: usize,
    sum: Sum<'_>,
) -> Result<()> {
    let (rows, listed) = (x.len() / dim, list.len());
    let [partials, _] = launch::column_sums_of(Float::Bf16, rows, listed, dim, "sums")?;
    let given = [("x", x), ("list", list)];
    let [partial] = device.run_all(&[partials], &given, ["partial"])?;
    add_up(device, &partial, launch::parts(listed), dim, sum)
}

/// Sums `partial` `[parts, dim]` into `[dim]`.
///
/// # Errors
/// Errors of the device.
pub fn add_up(
    device: &Device,
    partial: &Memory,
    parts: usize,
    dim: usize,
    sum: Sum<'_>,
) -> Result<()> {
    let totals = launch::totals(parts, dim, ["partial", "sum"], sum.add)?;
    device.run(&totals, &[("partial", partial), ("sum", sum.to)])
}

#[cfg(test)]
mod tests;
