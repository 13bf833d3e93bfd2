//! AdamW as PyTorch computes it, with a learning-rate factor and a weight decay per variable.

use super::{Optimizer, Slot, named, take};
use crate::Result;
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
        let correction1 = 1.0 - b1.powi(self.steps as i32);
        let correction2 = (1.0 - b2.powi(self.steps as i32)).sqrt();
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((slot, grad), (first, second)) in self.slots.iter().zip(grads).zip(moments) {
            let lr = lr * slot.group.lr_scale;
            let decay = (1.0 - lr * slot.group.weight_decay) as f32;
            let rate = (lr / correction1) as f32;
            let (b1, b2, correction2) = (b1 as f32, b2 as f32, correction2 as f32);
            slot.update(|values| {
                let moments = first.iter_mut().zip(second.iter_mut());
                for ((value, g), (m, v)) in values.iter_mut().zip(grad).zip(moments) {
                    *m = b1 * *m + (1.0 - b1) * g;
                    *v = b2 * *v + (1.0 - b2) * g * g;
                    *value = *value * decay - rate * *m / (v.sqrt() / correction2 + 1e-8);
                }
            })?;
        }
        Ok(())
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
