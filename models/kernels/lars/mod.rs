//! LARS in place (MAE `util/lars.py`): the trust ratio's two norms, then one pass over value and momentum.

mod cpu;
#[cfg(test)]
pub(super) mod reference;

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub lr: f32,
    /// Weight decay, of matrices only.
    pub weight_decay: f32,
    /// Momentum.
    pub momentum: f32,
    /// Trust coefficient, of matrices only; `None` takes the gradient as it is.
    pub trust: Option<f32>,
}

/// Moves `variable` and its `moment` by `grad`: `d = g + decay x`, scaled by `trust |x| / |d|`; `m = momentum m + d`,
/// `x = x - lr m`. Without trust, `d = g`.
///
/// # Errors
/// When `variable` is not a contiguous f32 one of the moment's size.
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
        let values = super::values_mut("lars", storage, layout)?;
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
