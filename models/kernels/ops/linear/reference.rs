//! The definition in f64.

/// Returns the output and, for the output's gradient `grad`, the gradients of x, weight and bias. `sizes` is `[rows, from, to]`.
pub fn linear(
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
    grad: &[f64],
    [rows, from, to]: [usize; 3],
) -> [Vec<f64>; 4] {
    let mut out = [
        vec![0.0; rows * to],
        vec![0.0; rows * from],
        vec![0.0; to * from],
        vec![0.0; to],
    ];
    for r in 0..rows {
        for t in 0..to {
            let g = grad[r * to + t];
            out[0][r * to + t] += bias[t];
            out[3][t] += g;
            for f in 0..from {
                out[0][r * to + t] += x[r * from + f] * weight[t * from + f];
                out[1][r * from + f] += g * weight[t * from + f];
                out[2][t * from + f] += g * x[r * from + f];
            }
        }
    }
    out
}
