//! Optimisers over a [`ParamStore`](crate::ParamStore)'s trainable variables, and the schedule.
//!
//! Gradients arrive as lists, one per trainable variable in order, or as one tensor beside the variables (see [`Gradient`]).

mod adamw;
mod lars;
mod schedule;
mod state;

use candle_core::Var;

use crate::Result;
use crate::params::Named;

pub use crate::gradients::Gradient;
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
    /// One step at learning rate `lr`; `gradient` of the variables given at construction, in their order.
    ///
    /// # Errors
    /// When a variable cannot be set, or the gradient is in another form than the variables' device has it.
    fn step(&mut self, gradient: &Gradient, lr: f64) -> Result<()>;
    /// Everything needed to go on: named tensors, and the number of steps done.
    ///
    /// # Errors
    /// When it cannot be read from the device.
    fn state(&self) -> Result<(Vec<Named>, u64)>;
    /// Takes back what [`state`](Self::state) gave, and the variables' values as they are now; `get` finds a tensor by name.
    ///
    /// # Errors
    /// When it cannot be put on the device.
    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Vec<f32>>, steps: u64) -> Result<()>;
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

#[cfg(test)]
mod tests;
