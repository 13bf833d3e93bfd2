//! AdamW as in PyTorch, with a learning-rate factor and a weight decay per variable.

use rayon::prelude::*;

use super::optimizer::{Group, Optimizer, Slot};
use super::state::Kept;
use crate::compute::Compute;
use crate::error::Result;
use crate::gradients::{Gradient, mismatch};
use crate::params::Named;
use tessera_kernels::ops::adamw::{Step, Steps, adamw, adamw_flat};

/// Names of the moments in a resume state.
pub(crate) const MOMENTS: &[&str] = &["first", "second"];

/// AdamW with epsilon 1e-8.
pub struct AdamW {
    slots: Vec<Slot>,
    betas: (f64, f64),
    /// First and second moments.
    moments: Kept,
    steps: u64,
}

impl AdamW {
    /// Creates an optimiser with zero moments on the device of `compute`.
    ///
    /// # Errors
    /// If memory is insufficient.
    pub fn new(slots: Vec<Slot>, betas: (f64, f64), compute: &Compute) -> Result<Self> {
        Ok(Self {
            moments: Kept::zeros(&slots, MOMENTS.len(), compute)?,
            slots,
            betas,
            steps: 0,
        })
    }
}

/// Computes a variable's coefficients for step `count` at learning rate `lr`.
fn numbers(group: Group, (b1, b2): (f64, f64), count: u64, lr: f64) -> Step {
    let steps = i32::try_from(count).unwrap_or(i32::MAX);
    let lr = lr * group.lr_scale;
    Step {
        rate: (lr / (1.0 - b1.powi(steps))) as f32,
        decay: (1.0 - lr * group.weight_decay) as f32,
        betas: [b1 as f32, b2 as f32],
        correction: (1.0 - b2.powi(steps)).sqrt() as f32,
    }
}

/// Computes the coefficients of variables of these groups for step `count`, from 1, at learning rate `lr`.
pub(crate) fn adamw_steps(
    groups: impl Iterator<Item = Group>,
    betas: (f64, f64),
    count: u64,
    lr: f64,
) -> Steps {
    let each = groups.map(|group| numbers(group, betas, count, lr));
    let each: Vec<Step> = each.collect();
    // Betas and correction are those of all variables.
    let none = Group {
        lr_scale: 1.0,
        weight_decay: 0.0,
    };
    let all = numbers(none, betas, count, lr);
    Steps {
        rate: each.iter().map(|n| n.rate).collect(),
        decay: each.iter().map(|n| n.decay).collect(),
        betas: all.betas,
        correction: all.correction,
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, gradient: &Gradient, lr: f64) -> Result<()> {
        let count = self.steps + 1;
        let groups = self.slots.iter().map(|slot| slot.group);
        match (&mut self.moments, gradient) {
            (Kept::Lists(moments), Gradient::Lists(grads)) => {
                let [first, second] = &mut moments[..] else {
                    return Err(mismatch());
                };
                let moments = first.par_iter_mut().zip(second);
                let slots = self.slots.par_iter().zip(grads).zip(moments);
                slots.try_for_each(|((slot, grad), (first, second))| {
                    let step = numbers(slot.group, self.betas, count, lr);
                    adamw(&slot.var, grad, [first, second], step)
                })?;
            }
            (Kept::Together(moments), Gradient::Flat(grad)) => {
                let steps = adamw_steps(groups, self.betas, count, lr);
                adamw_flat(&moments.state, grad, &moments.flat, &steps)?;
                moments.give_values(&self.slots)?;
            }
            _ => return Err(mismatch()),
        }
        self.steps = count;
        Ok(())
    }

    fn kinds(&self) -> &'static [&'static str] {
        MOMENTS
    }

    fn state(&self) -> Result<(Vec<Named>, u64)> {
        Ok((self.moments.named(&self.slots, MOMENTS)?, self.steps))
    }

    fn restore(
        &mut self,
        take: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
        steps: u64,
    ) -> Result<()> {
        self.moments.restore(&self.slots, MOMENTS, take)?;
        self.steps = steps;
        Ok(())
    }
}
