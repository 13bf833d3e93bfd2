//! The interface of all optimisers.

use candle_core::Var;

use crate::error::Result;
use crate::gradients::Gradient;
use crate::params::Named;

/// Settings of a variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// Updates variables with gradients.
pub trait Optimizer {
    /// Runs one step at learning rate `lr`. `gradient` follows the order of the variables given at construction.
    ///
    /// # Errors
    /// If a variable cannot be set, or the gradient's form does not match the variables' device.
    fn step(&mut self, gradient: &Gradient, lr: f64) -> Result<()>;
    /// Gives the variables their present values, if the optimiser keeps them elsewhere. The loop calls it before it reads the variables.
    ///
    /// # Errors
    /// If the values cannot be read from the device.
    fn settle(&self) -> Result<()> {
        Ok(())
    }
    /// Names of the state tensors per variable, such as moments.
    fn kinds(&self) -> &'static [&'static str];
    /// Returns the state needed to resume: a tensor `KIND.NAME` per kind and variable, with the variable's shape, and the number of steps.
    ///
    /// # Errors
    /// If the state cannot be read from the device.
    fn state(&self) -> Result<(Vec<Named>, u64)>;
    /// Restores what [`state`](Self::state) returned and picks up the variables' present values; `take` returns a tensor by name.
    ///
    /// # Errors
    /// If a tensor is missing, has another size, or cannot be copied to the device.
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
    /// Its settings.
    pub group: Group,
}
