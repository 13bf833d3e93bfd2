//! LARS as in MAE's `util/lars.py`: momentum 0.9, and trust coefficient 0.001 for tensors with more than one dimension.

use rayon::prelude::*;

use super::optimizer::{Optimizer, Slot};
use super::state::Kept;
use crate::compute::Compute;
use crate::error::Result;
use crate::gradients::{Gradient, mismatch};
use crate::params::Named;
use tessera_kernels::ops::lars::{Step, Steps, lars, lars_flat};

const KINDS: &[&str] = &["momentum"];

const MOMENTUM: f32 = 0.9;
const TRUST: f32 = 0.001;

/// LARS.
pub struct Lars {
    slots: Vec<Slot>,
    moments: Kept,
    steps: u64,
}

impl Lars {
    /// Creates an optimiser with zero momentum on the device of `compute`.
    ///
    /// # Errors
    /// If memory is insufficient.
    pub fn new(slots: Vec<Slot>, compute: &Compute) -> Result<Self> {
        Ok(Self {
            moments: Kept::zeros(&slots, KINDS.len(), compute)?,
            slots,
            steps: 0,
        })
    }
}

fn numbers(slot: &Slot, lr: f64) -> Step {
    Step {
        lr: (lr * slot.group.lr_scale) as f32,
        weight_decay: slot.group.weight_decay as f32,
        momentum: MOMENTUM,
        trust: (slot.var.rank() > 1).then_some(TRUST),
    }
}

impl Optimizer for Lars {
    fn step(&mut self, gradient: &Gradient, lr: f64) -> Result<()> {
        match (&mut self.moments, gradient) {
            (Kept::Lists(moments), Gradient::Lists(grads)) => {
                let slots = self.slots.par_iter().zip(grads).zip(&mut moments[0]);
                slots.try_for_each(|((slot, grad), moment)| {
                    lars(&slot.var, grad, moment, numbers(slot, lr))
                })?;
            }
            (Kept::Together(moments), Gradient::Flat(grad)) => {
                let each = self.slots.iter().map(|slot| numbers(slot, lr));
                let each: Vec<Step> = each.collect();
                let trust = |n: &Step| n.trust.unwrap_or(0.0);
                let decay = |n: &Step| n.trust.map_or(0.0, |_| n.weight_decay);
                let steps = Steps {
                    rate: each.iter().map(|n| n.lr).collect(),
                    decay: each.iter().map(decay).collect(),
                    trust: each.iter().map(trust).collect(),
                    momentum: MOMENTUM,
                };
                lars_flat(&moments.state, grad, &moments.flat, &steps)?;
                moments.give_values(&self.slots)?;
            }
            _ => return Err(mismatch()),
        }
        self.steps += 1;
        Ok(())
    }

    fn kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn state(&self) -> Result<(Vec<Named>, u64)> {
        Ok((self.moments.named(&self.slots, KINDS)?, self.steps))
    }

    fn restore(
        &mut self,
        take: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
        steps: u64,
    ) -> Result<()> {
        self.moments.restore(&self.slots, KINDS, take)?;
        self.steps = steps;
        Ok(())
    }
}
