//! Optimisers over a [`ParamStore`](crate::ParamStore)'s trainable variables, and the schedule.
//!
//! Gradients arrive as plain vectors, one per trainable variable in order (see [`train`](crate::train)).

mod adamw;
mod lars;
mod schedule;

use candle_core::Var;

use crate::Result;
use crate::params::Named;

pub use adamw::AdamW;
pub use lars::Lars;
pub use schedule::Schedule;

/// How one variable is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// Moves variables along gradients.
pub trait Optimizer {
    /// One step at learning rate `lr`; `grads` in the order of the variables given at construction.
    ///
    /// # Errors
    /// When a variable cannot be set.
    fn step(&mut self, grads: &[Vec<f32>], lr: f64) -> Result<()>;
    /// Everything needed to go on: named tensors, and the number of steps done.
    fn state(&self) -> (Vec<Named>, u64);
    /// Takes back what [`state`](Self::state) gave; `get` finds a tensor by name.
    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Vec<f32>>, steps: u64);
}

/// A variable with its name and group.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The parameter's name.
    pub name: String,
    /// The variable.
    pub var: Var,
    /// How it is treated.
    pub group: Group,
}

/// Moments as named tensors, and back.
fn named(slots: &[Slot], moments: &[Vec<f32>], prefix: &str) -> Vec<Named> {
    let pairs = slots.iter().zip(moments);
    pairs
        .map(|(slot, m)| (format!("{prefix}.{}", slot.name), vec![m.len()], m.clone()))
        .collect()
}

fn take(
    slots: &[Slot],
    moments: &mut [Vec<f32>],
    prefix: &str,
    get: &dyn Fn(&str) -> Option<Vec<f32>>,
) {
    for (slot, moment) in slots.iter().zip(moments) {
        if let Some(values) =
            get(&format!("{prefix}.{}", slot.name)).filter(|v| v.len() == moment.len())
        {
            *moment = values;
        }
    }
}

#[cfg(test)]
mod tests;
