//! How far a probe is from its optimum. The history of losses cannot tell: a schedule that ends at rate 0 flattens every curve.

use candle_core::{DType, Tensor};
use tessera_kernels::ops::matmul;

use super::head::Head;
use super::steps::{ProbeConfig, ProbeData};
use crate::error::{Error, Result};
use crate::train::RunContext;

/// Added to the features' second moments, which are 1 on the diagonal. It makes them invertible, and keeps the bound valid.
const RIDGE: f64 = 1e-4;

/// Sums over the train images.
struct Sums {
    /// Length of a vector and its constant 1.
    width: usize,
    loss: f64,
    /// Gradient of the mean loss, `[classes, width]`.
    gradient: Vec<f64>,
    /// Second moments of the normalised vectors, `[width, width]`.
    moments: Vec<f64>,
}

/// Returns by which fraction one further step over all train images lowers the mean cross-entropy at least.
///
/// The Hessian of the cross-entropy is at most `1/2 (I - 11'/classes) x E[xx']` (Böhning, Multinomial logistic regression algorithm, 1992,
/// eq. 2.3), so a Newton step with this bound lowers the loss by at least `sum_c g_c' E[xx']^-1 g_c`, where `g_c` is the gradient of class
/// `c`. Vectors are normalised with the running statistics, as in the evaluation, and crops are those of one further epoch.
///
/// # Errors
/// [`Error::Interrupted`], or an error of the data source.
pub(super) fn remaining_fall(
    config: &ProbeConfig,
    head: &Head,
    data: &dyn ProbeData,
    labels: &[u32],
    cx: &RunContext<'_>,
) -> Result<f64> {
    let width = head.dim + 1;
    let mut sums = Sums {
        width,
        loss: 0.0,
        gradient: vec![0.0; head.classes()? * width],
        moments: vec![0.0; width * width],
    };
    let images: Vec<usize> = (0..labels.len()).collect();
    for batch in images.chunks(config.batch.max(1)) {
        if (cx.interrupted)() {
            return Err(Error::Interrupted);
        }
        let x = data.features(config.epochs, batch)?;
        let labels: Vec<u32> = batch.iter().map(|i| labels[*i]).collect();
        sums.add(head, &x, &labels, images.len())?;
    }
    Ok(fraction(sums.fall(), sums.loss))
}

/// Returns `fall / loss`. A loss of 0, which f32 reaches on separable classes, cannot fall.
fn fraction(fall: f64, loss: f64) -> f64 {
    if loss == 0.0 { 0.0 } else { fall / loss }
}

impl Sums {
    /// Adds a batch of `total` images.
    fn add(&mut self, head: &Head, x: &[f32], labels: &[u32], total: usize) -> Result<()> {
        let share = labels.len() as f64 / total as f64;
        let x = head.normalised(x)?;
        let (loss, [weight, bias]) = head.layer_gradients(0, &x, labels)?;
        self.loss += share * loss;
        let bias = bias.unsqueeze(1)?;
        let gradient = Tensor::cat(&[weight, bias], 1)?;
        accumulate(&mut self.gradient, &gradient, share)?;
        let ones = Tensor::ones((labels.len(), 1), DType::F32, x.device())?;
        let x = Tensor::cat(&[x, ones], 1)?;
        accumulate(&mut self.moments, &matmul(&x.t()?, &x)?, 1.0 / total as f64)
    }

    /// Returns the guaranteed fall of the loss.
    fn fall(&self) -> f64 {
        let width = self.width;
        let factor = cholesky(&self.moments, width);
        let mut fall = 0.0;
        for row in self.gradient.chunks_exact(width) {
            // Solves `factor solved = row`; the squares of `solved` sum to `row' moments^-1 row`.
            let mut solved = Vec::with_capacity(width);
            for (at, value) in row.iter().enumerate() {
                let line = &factor[at * width..];
                let known: f64 = solved.iter().zip(line).map(|(s, l)| s * l).sum();
                solved.push((value - known) / line[at]);
            }
            fall += solved.iter().map(|s| s * s).sum::<f64>();
        }
        fall
    }
}

fn accumulate(sums: &mut [f64], values: &Tensor, share: f64) -> Result<()> {
    let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += share * f64::from(value);
    }
    Ok(())
}

/// Returns the lower triangle `l` with `l l' = matrix + RIDGE I`.
fn cholesky(matrix: &[f64], width: usize) -> Vec<f64> {
    let mut l = vec![0.0; width * width];
    for row in 0..width {
        for column in 0..=row {
            let [a, b] = [row, column].map(|at| &l[at * width..at * width + column]);
            let known: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let rest = matrix[row * width + column] - known;
            l[row * width + column] = match row == column {
                // Rounding may leave less than the ridge, which is a lower bound of the exact value.
                true => (rest + RIDGE).max(RIDGE).sqrt(),
                false => rest / l[column * width + column],
            };
        }
    }
    l
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_of_zero_has_converged() {
        assert_eq!(fraction(0.0, 0.0), 0.0);
        assert_eq!(fraction(0.1, 2.0), 0.05);
    }

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        let matrix = [4.0, 2.0, 0.6, 2.0, 2.0, 0.5, 0.6, 0.5, 1.0];
        let l = cholesky(&matrix, 3);
        for row in 0..3 {
            for column in 0..3 {
                let product: f64 = (0..3).map(|k| l[row * 3 + k] * l[column * 3 + k]).sum();
                let ridge = if row == column { RIDGE } else { 0.0 };
                assert!((product - ridge - matrix[row * 3 + column]).abs() < 1e-12);
            }
        }
    }
}
