//! Matrices of blocks, packed once for all products of a step.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Result, Tensor, TensorId};
use rayon::prelude::*;

use crate::ops::values::stored_numbers;
use crate::product::{Form, Packed, Rounding};

/// Matrices of blocks as the right factors of the forward's and of the backward's product. A product without them packs its factors
/// itself, to the same result.
#[derive(Clone, Debug, Default)]
pub struct Packs(Arc<HashMap<TensorId, [Packed; 2]>>);

impl Packs {
    /// Packs the present numbers of `matrices` `[to, from]` in parallel. It reuses the memory of before if no block holds it any longer.
    ///
    /// # Errors
    /// If a matrix is neither f32 nor bf16, or not on the CPU.
    pub fn renew(&mut self, matrices: &[&Tensor]) -> Result<()> {
        let mut before = Arc::try_unwrap(std::mem::take(&mut self.0)).unwrap_or_default();
        let all: Vec<_> = matrices
            .iter()
            .map(|matrix| (matrix, before.remove(&matrix.id()).unwrap_or_default()))
            .collect();
        let all = all.into_par_iter().map(|(matrix, mut packed)| {
            let numbers = stored_numbers(matrix)?;
            let (to, from) = matrix.dims2()?;
            let operand = numbers.operand([to, from], Rounding::Exact);
            let forms = [Form::RightTransposed, Form::Plain];
            for (form, packed) in forms.into_iter().zip(&mut packed) {
                operand.factor().pack(form, packed);
            }
            Ok((matrix.id(), packed))
        });
        self.0 = Arc::new(all.collect::<Result<_>>()?);
        Ok(())
    }

    pub(super) fn of(&self, matrix: &Tensor) -> &[Packed] {
        self.0.get(&matrix.id()).map_or(&[], |packed| packed)
    }
}
