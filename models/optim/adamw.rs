//! AdamW as PyTorch computes it, with a learning-rate factor and a weight decay per variable.

use rayon::prelude::*;

use super::{Optimizer, Slot, named, take};
use crate::Result;
use crate::kernels::adamw::{Step, adamw};
use crate::params::Named;

/// AdamW; epsilon 1e-8.
pub struct AdamW {
    slots: Vec<Slot>,
    betas: (f64, f64),
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    steps: u64,
}

impl AdamW {
    /// Moments at zero.
    pub fn new(slots: Vec<Slot>, betas: (f64, f64)) -> Self {
        let zeros: Vec<Vec<f32>> = slots
            .iter()
            .map(|s| vec![0.0; s.var.elem_count()])
            .collect();
        Self {
            slots,
            betas,
            first: zeros.clone(),
            second: zeros,
            steps: 0,
        }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, grads: &[Vec<f32>], lr: f64) -> Result<()> {
        self.steps += 1;
        let (b1, b2) = self.betas;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correction1 = 1.0 - b1.powi(steps);
        let correction2 = (1.0 - b2.powi(steps)).sqrt();
        let moments = self.first.par_iter_mut().zip(&mut self.second);
        let slots = self.slots.par_iter().zip(grads).zip(moments);
        slots.try_for_each(|((slot, grad), (first, second))| {
            let lr = lr * slot.group.lr_scale;
            let step = Step {
                rate: (lr / correction1) as f32,
                decay: (1.0 - lr * slot.group.weight_decay) as f32,
                betas: [b1 as f32, b2 as f32],
                correction: correction2 as f32,
            };
            Ok(adamw(&slot.var, grad, [first, second], step)?)
        })
    }

    fn state(&self) -> (Vec<Named>, u64) {
        let mut all = named(&self.slots, &self.first, "first");
        all.extend(named(&self.slots, &self.second, "second"));
        (all, self.steps)
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Vec<f32>>, steps: u64) {
        take(&self.slots, &mut self.first, "first", get);
        take(&self.slots, &mut self.second, "second", get);
        self.steps = steps;
    }
}
