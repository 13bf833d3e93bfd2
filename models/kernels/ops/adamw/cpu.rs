//! Threads share pieces of large variables; elements are independent.

use rayon::prelude::*;

use crate::simd::vectorized;

/// Parameters of one step, the same for every element of a variable.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate, divided by the bias correction of the first moment.
    pub rate: f32,
    /// `1 - lr * weight_decay`.
    pub decay: f32,
    /// Decay rates of the first and second moment.
    pub betas: [f32; 2],
    /// Square root of the second moment's bias correction.
    pub correction: f32,
}

/// Elements per task.
const PIECE: usize = 1 << 16;

/// Updates `values` and both moments in place.
pub fn step(values: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32], step: Step) {
    let pieces = (values.par_chunks_mut(PIECE), grad.par_chunks(PIECE));
    let moments = (first.par_chunks_mut(PIECE), second.par_chunks_mut(PIECE));
    (pieces, moments)
        .into_par_iter()
        .for_each(|((values, grad), (first, second))| {
            vectorized(
                #[inline(always)]
                || piece(values, grad, first, second, step),
            );
        });
}

#[inline(always)]
fn piece(values: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32], step: Step) {
    let [b1, b2] = step.betas;
    let moments = first.iter_mut().zip(second);
    for ((value, g), (m, v)) in values.iter_mut().zip(grad).zip(moments) {
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * g * g;
        *value = *value * step.decay - step.rate * *m / (v.sqrt() / step.correction + 1e-8);
    }
}
