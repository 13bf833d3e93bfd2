//! AdamW in one pass over value, gradient and both moments, in place.

mod cpu;
pub mod launch;
#[cfg(test)]
pub(super) mod reference;

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

/// The numbers of one step, the same for every element of a variable.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate, the bias correction of the first moment divided out.
    pub rate: f32,
    /// `1 - lr * weight_decay`.
    pub decay: f32,
    /// Decay of the first and the second moment.
    pub betas: [f32; 2],
    /// The root of the second moment's bias correction.
    pub correction: f32,
}

/// Moves `variable` and its moments by `grad`: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
/// `x = decay x - rate m / (sqrt(v) / correction + 1e-8)`.
///
/// # Errors
/// When `variable` is not a contiguous f32 one of the moments' size.
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
        let values = super::values_mut("adamw", storage, layout)?;
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
