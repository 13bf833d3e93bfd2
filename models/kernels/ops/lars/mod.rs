//! LARS in place (MAE `util/lars.py`): the two norms of the trust ratio, then one pass over value and momentum.

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

/// Updates `variable` and its `moment` with `grad`: `d = g + decay x`, scaled by `trust |x| / |d|`; `m = momentum m + d`,
/// `x = x - lr m`. Without trust, `d = g`.
///
/// # Errors
/// If `variable` is not a contiguous f32 tensor of the moment's size.
pub fn lars(variable: &Tensor, grad: &[f32], moment: &mut [f32], step: Step) -> Result<()> {
    variable.inplace_op1(&Lars {
        grad,
        moment: RefCell::new(moment),
        step,
    })
}

struct Lars<'a> {
    grad: &'a [f32],
    moment: RefCell<&'a mut [f32]>,
    step: Step,
}

impl InplaceOp1 for Lars<'_> {
    fn name(&self) -> &'static str {
        "lars"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let values = values_mut("lars", storage, layout)?;
        let moment = &mut *self.moment.borrow_mut();
        let sizes = [self.grad.len(), moment.len()];
        if sizes != [values.len(); 2] {
            candle_core::bail!(
                "lars: {} values, gradient and moment {sizes:?}",
                values.len()
            );
        }
        cpu::step(values, self.grad, moment, self.step);
        Ok(())
    }
}

/// Updates all tensors of a flat buffer.
///
/// # Shapes
/// `state` `[2, flat.len()]`: values and momenta; `grad` `[flat.len()]`; both f32.
///
/// # Errors
/// If a shape or type differs.
pub fn lars_flat(state: &Tensor, grad: &Tensor, flat: &Flat, steps: &Steps) -> Result<()> {
    flat.check(
        "lars",
        (state, 1),
        grad,
        &[&steps.rate, &steps.decay, &steps.trust],
    )?;
    state.inplace_op2(grad, &AllAtOnce { flat, steps })
}

struct AllAtOnce<'a> {
    flat: &'a Flat,
    steps: &'a Steps,
}

impl InplaceOp2 for AllAtOnce<'_> {
    fn name(&self) -> &'static str {
        "lars-flat"
    }

    fn cpu_fwd(
        &self,
        state: &mut CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let grad = floats("lars", grad, grad_layout)?;
        let state = values_mut("lars", state, layout)?;
        let (values, moments) = state.split_at_mut(self.flat.len());
        for tensor in 0..self.flat.starts.len() {
            let at = self.flat.range(tensor);
            let trust = self.steps.trust[tensor];
            let step = Step {
                lr: self.steps.rate[tensor],
                weight_decay: self.steps.decay[tensor],
                momentum: self.steps.momentum,
                trust: (trust > 0.0).then_some(trust),
            };
            let (values, moments) = (&mut values[at.clone()], &mut moments[at.clone()]);
            cpu::step(values, &grad[at], moments, step);
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
