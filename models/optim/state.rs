//! State of an optimiser per variable, on the variables' device.

use candle_core::{DType, Tensor};

use super::optimizer::Slot;
use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::params::Named;
use tessera_kernels::ops::flat::Flat;

/// State of all kinds, such as first and second moments.
pub(super) enum Kept {
    /// One list per kind and variable, on the CPU.
    Lists(Vec<Vec<Vec<f32>>>),
    /// One tensor, which a single launch updates.
    Together(Together),
}

/// The state in one tensor.
pub(super) struct Together {
    /// Positions of the variables in a row.
    pub flat: Flat,
    /// `[1 + kinds, flat.len()]` f32: the variables' values, then each kind.
    pub state: Tensor,
}

impl Kept {
    /// Creates zeros for `kinds` kinds, in the form that `compute` uses for gradients.
    pub fn zeros(slots: &[Slot], kinds: usize, compute: &Compute) -> Result<Self> {
        let lengths: Vec<usize> = slots.iter().map(|s| s.var.elem_count()).collect();
        if !compute.is_composed() {
            let zeros: Vec<Vec<f32>> = lengths.iter().map(|len| vec![0.0; *len]).collect();
            return Ok(Self::Lists(vec![zeros; kinds]));
        }
        let flat = Flat::of(&lengths);
        let state = Tensor::zeros((1 + kinds, flat.len()), DType::F32, compute.device())?;
        let together = Together { flat, state };
        together.take_values(slots)?;
        Ok(Self::Together(together))
    }

    /// Returns the state of all `kinds` as named tensors.
    pub fn named(&self, slots: &[Slot], kinds: &[&str]) -> Result<Vec<Named>> {
        let one = |(kind, at): (usize, usize)| {
            let values = match self {
                Self::Lists(lists) => lists[kind][at].clone(),
                Self::Together(together) => together.part(1 + kind, at)?.to_vec1()?,
            };
            let slot = &slots[at];
            let name = format!("{}.{}", kinds[kind], slot.name);
            Ok((name, slot.var.dims().to_vec(), values))
        };
        let all = (0..kinds.len()).flat_map(|kind| (0..slots.len()).map(move |at| (kind, at)));
        all.map(one).collect()
    }

    /// Restores the state of all `kinds` and copies the variables' present values; `take` returns a tensor by name.
    pub fn restore(
        &mut self,
        slots: &[Slot],
        kinds: &[&str],
        take: &mut dyn FnMut(&str) -> Option<Vec<f32>>,
    ) -> Result<()> {
        for (kind, kind_name) in kinds.iter().enumerate() {
            for (at, slot) in slots.iter().enumerate() {
                let name = format!("{kind_name}.{}", slot.name);
                let values = take(&name).filter(|v| v.len() == slot.var.elem_count());
                let lacking = || Error::Config(format!("the saved optimiser state lacks `{name}`"));
                let values = values.ok_or_else(lacking)?;
                match self {
                    Self::Lists(lists) => lists[kind][at] = values,
                    Self::Together(together) => {
                        let values =
                            Tensor::from_vec(values, slot.var.elem_count(), slot.var.device())?;
                        together.put(1 + kind, at, &values)?;
                    }
                }
            }
        }
        match self {
            Self::Lists(_) => Ok(()),
            Self::Together(together) => together.take_values(slots),
        }
    }
}

impl Together {
    fn row(&self, row: usize) -> Result<Tensor> {
        Ok(self.state.narrow(0, row, 1)?.squeeze(0)?)
    }

    fn part(&self, row: usize, at: usize) -> Result<Tensor> {
        Ok(self
            .row(row)?
            .narrow(0, self.flat.starts[at], self.flat.lengths[at])?)
    }

    fn put(&self, row: usize, at: usize, values: &Tensor) -> Result<()> {
        Ok(self.row(row)?.slice_set(values, 0, self.flat.starts[at])?)
    }

    fn take_values(&self, slots: &[Slot]) -> Result<()> {
        let values = |slot: &Slot| slot.var.as_detached_tensor().flatten_all();
        (0..)
            .zip(slots)
            .try_for_each(|(at, slot)| self.put(0, at, &values(slot)?))
    }

    /// Copies the values that a step updated into the variables.
    pub fn give_values(&self, slots: &[Slot]) -> Result<()> {
        (0..).zip(slots).try_for_each(|(at, slot)| {
            let values = self.part(0, at)?.reshape(slot.var.shape())?;
            Ok(slot.var.set(&values)?)
        })
    }
}
