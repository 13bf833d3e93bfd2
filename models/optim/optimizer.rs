//! What every optimiser does.

use candle_core::Var;

use crate::error::Result;
use crate::gradients::Gradient;
use crate::params::Named;

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
    /// The kinds of numbers that it keeps for each variable, by name.
    fn kinds(&self) -> &'static [&'static str];
    /// Everything needed to go on: a tensor `KIND.NAME` of each kind and variable, of the variable's shape, and the number of steps done.
    ///
    /// # Errors
    /// When it cannot be read from the device.
    fn state(&self) -> Result<(Vec<Named>, u64)>;
    /// Takes back what [`state`](Self::state) gave, and the variables' values as they are now; `take` finds a tensor by name.
    ///
    /// # Errors
    /// When one is absent or has another size, or cannot be put on the device.
    fn restore(&mut self, take: &mut dyn FnMut(&str) -> Option<Vec<f32>>, steps: u64)
    -> Result<()>;
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
