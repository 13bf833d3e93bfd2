//! LARS as MAE's `util/lars.py`: momentum 0.9, trust coefficient 0.001 on tensors with more than one dimension only.

use super::{Optimizer, Slot, named, take};
use crate::Result;
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
        for ((slot, grad), moment) in self.slots.iter().zip(grads).zip(&mut self.moments) {
            let is_matrix = slot.var.rank() > 1;
            let (lr, decay) = (
                (lr * slot.group.lr_scale) as f32,
                slot.group.weight_decay as f32,
            );
            slot.update(|values| {
                let mut direction = grad.clone();
                if is_matrix {
                    direction
                        .iter_mut()
                        .zip(values.iter())
                        .for_each(|(d, v)| *d += decay * v);
                    let (size, update) = (norm(values), norm(&direction));
                    let trust = if size > 0.0 && update > 0.0 {
                        TRUST * size / update
                    } else {
                        1.0
                    };
                    direction.iter_mut().for_each(|d| *d *= trust);
                }
                for ((value, d), m) in values.iter_mut().zip(direction).zip(moment.iter_mut()) {
                    *m = MOMENTUM * *m + d;
                    *value -= lr * *m;
                }
            })?;
        }
        Ok(())
    }

    fn state(&self) -> (Vec<Named>, u64) {
        (named(&self.slots, &self.moments, "momentum"), self.steps)
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Vec<f32>>, steps: u64) {
        take(&self.slots, &mut self.moments, "momentum", get);
        self.steps = steps;
    }
}

fn norm(values: &[f32]) -> f32 {
    values
        .iter()
        .map(|v| f64::from(*v) * f64::from(*v))
        .sum::<f64>()
        .sqrt() as f32
}
