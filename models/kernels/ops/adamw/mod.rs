//! AdamW: one in-place pass over value, gradient and both moments.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod launch;
#[cfg(test)]
pub(crate) mod reference;

pub use cpu::Step;
pub use launch::Steps;

use std::cell::RefCell;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorage;
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};

use super::flat::Flat;
use super::values::{floats, values_mut};

/// Updates `variable` and its moments with `grad`: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
/// `x = decay x - rate m / (sqrt(v) / correction + 1e-8)`.
///
/// # Errors
/// If `variable` is not a contiguous f32 tensor of the moments' size.
pub fn adamw(
    variable: &Tensor,
    grad: &[f32],
    [first, second]: [&mut [f32]; 2],
    step: Step,
) -> Result<()> {
    variable.inplace_op1(&AdamW {
        grad,
        moments: RefCell::new([first, second]),
        step,
    })
}

struct AdamW<'a> {
    grad: &'a [f32],
    moments: RefCell<[&'a mut [f32]; 2]>,
    step: Step,
}

impl InplaceOp1 for AdamW<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let values = values_mut("adamw", storage, layout)?;
        let [first, second] = &mut *self.moments.borrow_mut();
        let sizes = [self.grad.len(), first.len(), second.len()];
        if sizes != [values.len(); 3] {
            candle_core::bail!(
                "adamw: {} values, gradient and moments {sizes:?}",
                values.len()
            );
        }
        cpu::step(values, self.grad, first, second, self.step);
        Ok(())
    }
}

/// Updates all tensors of a flat buffer in one launch.
///
/// # Shapes
/// `state` `[3, flat.len()]`: values, first and second moments; `grad` `[flat.len()]`; both f32.
///
/// # Errors
/// If a shape or type differs.
pub fn adamw_flat(state: &Tensor, grad: &Tensor, flat: &Flat, steps: &Steps) -> Result<()> {
    flat.check("adamw", (state, 2), grad, &[&steps.rate, &steps.decay])?;
    state.inplace_op2(grad, &AllAtOnce { flat, steps })
}

struct AllAtOnce<'a> {
    flat: &'a Flat,
    steps: &'a Steps,
}

impl InplaceOp2 for AllAtOnce<'_> {
    fn name(&self) -> &'static str {
        "adamw-flat"
    }

    fn cpu_fwd(
        &self,
        state: &mut CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let grad = floats("adamw", grad, grad_layout)?;
        let state = values_mut("adamw", state, layout)?;
        let (values, moments) = state.split_at_mut(self.flat.len());
        let (first, second) = moments.split_at_mut(self.flat.len());
        for tensor in 0..self.flat.starts.len() {
            let at = self.flat.range(tensor);
            let step = Step {
                rate: self.steps.rate[tensor],
                decay: self.steps.decay[tensor],
                betas: self.steps.betas,
                correction: self.steps.correction,
            };
            let (first, second) = (&mut first[at.clone()], &mut second[at.clone()]);
            cpu::step(&mut values[at.clone()], &grad[at], first, second, step);
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        state: &mut CudaStorage,
        _: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        cuda::step(state, ("grad", grad, grad_layout), self.flat, self.steps)
    }
}
