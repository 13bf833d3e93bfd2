//! LARS as MAE's `util/lars.py`: momentum 0.9, trust coefficient 0.001 on tensors with more than one dimension only.

use rayon::prelude::*;

use super::{Optimizer, Slot, named, take};
use crate::Result;
use crate::kernels::lars::{Step, lars};
use crate::params::Named;

const MOMENTUM: f32 = 0.9;
const TRUST: f32 = 0.001;

/// LARS.
pub struct Lars {
    slots: Vec<Slot>,
    moments: Vec<Vec<f32>>,
    steps: u64,
}

impl Lars {
    /// Momentum at zero.
    pub fn new(slots: Vec<Slot>) -> Self {
        let moments = slots
            .iter()
            .map(|s| vec![0.0; s.var.elem_count()])
            .collect();
        Self {
            slots,
            moments,
            steps: 0,
        }
    }
}

impl Optimizer for Lars {
    fn step(&mut self, grads: &[Vec<f32>], lr: f64) -> Result<()> {
        self.steps += 1;
        let slots = self.slots.par_iter().zip(grads).zip(&mut self.moments);
        slots.try_for_each(|((slot, grad), moment)| {
            let step = Step {
                lr: (lr * slot.group.lr_scale) as f32,
                weight_decay: slot.group.weight_decay as f32,
                momentum: MOMENTUM,
                trust: (slot.var.rank() > 1).then_some(TRUST),
            };
            Ok(lars(&slot.var, grad, moment, step)?)
        })
    }

    fn state(&self) -> (Vec<Named>, u64) {
        (named(&self.slots, &self.moments, "momentum"), self.steps)
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Vec<f32>>, steps: u64) {
        take(&self.slots, &mut self.moments, "momentum", get);
        self.steps = steps;
    }
}
