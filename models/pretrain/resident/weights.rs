//! The parameters on a device: all trainable ones in one flat buffer, with their gradients and moments beside it.

use std::collections::HashMap;

use candle_core::Var;
use half::bf16;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_kernels::ops::adamw::{Steps, launch};
use tessera_kernels::ops::flat::Flat;
use tessera_kernels::ops::linear::device::Sum;

use crate::error::{Error, Result};
use crate::gradients::layout;
use crate::params::ParamStore;

/// Rows of the flat state: the values, then AdamW's moments.
const ROWS: usize = 3;

/// Parameters, gradients and moments.
pub(super) struct Weights {
    device: Device,
    flat: Flat,
    /// Position of each trainable parameter in `flat`.
    index: HashMap<String, usize>,
    /// Parameters that are not trained, f32.
    fixed: HashMap<String, Memory>,
    /// `[3, flat.len()]` f32.
    state: Memory,
    /// The values in bf16.
    rounded: Memory,
    pub(super) gradient: Memory,
    chunk_tensor: Memory,
}

impl Weights {
    /// Copies parameters to the device, with moments of zero.
    pub(super) fn new(device: &Device, params: &ParamStore) -> Result<Self> {
        let flat = layout(params);
        let index = params.trainable().zip(0..);
        let fixed = params.variables().filter(|(name, _)| {
            // `trainable` lists the others.
            !params.trainable().any(|(other, _)| other == *name)
        });
        let fixed = fixed.map(|(name, var)| Ok((name.to_owned(), device.put(&numbers(var)?)?)));
        let len = flat.len();
        let weights = Self {
            index: index.map(|((name, _), at)| (name.to_owned(), at)).collect(),
            fixed: fixed.collect::<Result<_>>()?,
            state: device.put(&vec![0.0_f32; ROWS * len])?,
            rounded: device.put(&vec![bf16::ZERO; len])?,
            // Sums never write the padding between tensors, which AdamW and the check read.
            gradient: device.put(&vec![0.0_f32; len])?,
            chunk_tensor: device.put(&flat.chunk_tensor)?,
            device: device.clone(),
            flat,
        };
        let values: Vec<Vec<f32>> = params
            .trainable()
            .map(|(_, var)| numbers(var))
            .collect::<Result<_>>()?;
        weights.set_values(&values)?;
        Ok(weights)
    }

    /// Returns the number of trainable parameters.
    pub(super) fn tensors(&self) -> usize {
        self.flat.starts.len()
    }

    /// Sets the values of all trainable parameters, in order.
    pub(super) fn set_values(&self, values: &[Vec<f32>]) -> Result<()> {
        let all = self.padded(values);
        let short: Vec<bf16> = all.iter().map(|v| bf16::from_f32(*v)).collect();
        self.device.write(&self.row(0), &all)?;
        Ok(self.device.write(&self.rounded, &short)?)
    }

    /// Sets a moment of all trainable parameters: 1 or 2.
    pub(super) fn set_moment(&self, which: usize, values: &[Vec<f32>]) -> Result<()> {
        Ok(self.device.write(&self.row(which), &self.padded(values))?)
    }

    /// Returns a row of the state by parameter: the values (0), or a moment.
    pub(super) fn rows(&self, which: usize) -> Result<Vec<Vec<f32>>> {
        self.by_parameter(&self.row(which))
    }

    /// Returns the gradient by parameter.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> Result<Vec<Vec<f32>>> {
        self.by_parameter(&self.gradient)
    }

    fn by_parameter(&self, flat: &Memory) -> Result<Vec<Vec<f32>>> {
        let all = self.device.read::<f32>(flat)?;
        let each = (0..self.flat.lengths.len()).map(|at| all[self.flat.range(at)].to_vec());
        Ok(each.collect())
    }

    fn padded(&self, values: &[Vec<f32>]) -> Vec<f32> {
        let mut all = vec![0.0; self.flat.len()];
        for (at, values) in values.iter().enumerate() {
            all[self.flat.range(at)].copy_from_slice(values);
        }
        all
    }

    fn row(&self, which: usize) -> Memory {
        let len = self.flat.len();
        self.state.part(which * len..(which + 1) * len)
    }

    fn at(&self, name: &str) -> Result<usize> {
        let missing = || Error::Config(format!("the model has no trained parameter `{name}`"));
        self.index.get(name).copied().ok_or_else(missing)
    }

    /// Returns a parameter in f32.
    pub(super) fn value(&self, name: &str) -> Result<Memory> {
        match self.fixed.get(name) {
            Some(fixed) => Ok(fixed.clone()),
            None => Ok(self.row(0).part(self.flat.range(self.at(name)?))),
        }
    }

    /// Returns a trained parameter in bf16.
    pub(super) fn rounded(&self, name: &str) -> Result<Memory> {
        Ok(self.rounded.part(self.flat.range(self.at(name)?)))
    }

    /// Returns the gradient of a trained parameter.
    pub(super) fn gradient_of(&self, name: &str) -> Result<Memory> {
        Ok(self.gradient.part(self.flat.range(self.at(name)?)))
    }

    /// Updates all values with the gradient.
    pub(super) fn update(&self, steps: &Steps) -> Result<()> {
        let launch = launch::step_rounded(&self.flat, steps.betas, steps.correction);
        let launch = launch.map_err(candle_core::Error::wrap)?;
        let (rate, decay) = (
            self.device.put(&steps.rate)?,
            self.device.put(&steps.decay)?,
        );
        let [value, first, second] = [0, 1, 2].map(|which| self.row(which));
        let given = [
            ("value", &value),
            ("grad", &self.gradient),
            ("first", &first),
            ("second", &second),
            ("rounded", &self.rounded),
            ("chunk_tensor", &self.chunk_tensor),
            ("rate", &rate),
            ("decay", &decay),
        ];
        Ok(self.device.run(&launch, &given)?)
    }
}

/// The gradients of some parameters, and whether they are added to those of earlier parts.
pub(super) struct Gradients<const N: usize> {
    to: [Memory; N],
    add: bool,
}

impl<const N: usize> Gradients<N> {
    /// Looks up the gradients of the parameters `names`.
    pub(super) fn of(weights: &Weights, names: [&str; N], add: bool) -> Result<Self> {
        Ok(Self {
            to: each(names, |name| weights.gradient_of(name))?,
            add,
        })
    }

    /// Returns the places of the gradients.
    pub(super) fn sums(&self) -> [Sum<'_>; N] {
        let add = self.add;
        self.to.each_ref().map(|to| Sum { to, add })
    }
}

/// Calls `get` for each name.
pub(super) fn each<const N: usize, T>(
    names: [&str; N],
    get: impl Fn(&str) -> Result<T>,
) -> Result<[T; N]> {
    let all: Vec<T> = names.into_iter().map(get).collect::<Result<_>>()?;
    let wrong = |_| Error::Config(format!("expected {N} parameters"));
    all.try_into().map_err(wrong)
}

fn numbers(var: &Var) -> Result<Vec<f32>> {
    Ok(var.as_detached_tensor().flatten_all()?.to_vec1()?)
}
