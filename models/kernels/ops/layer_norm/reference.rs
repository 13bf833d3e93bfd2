//! The definition in f64.

/// Returns for one row the output and, for the output's gradient `grad`, the gradients of `x`, weight and bias.
pub fn row(x: &[f64], weight: &[f64], bias: &[f64], grad: &[f64], eps: f64) -> [Vec<f64>; 4] {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let sd = (variance + eps).sqrt();
    let normal: Vec<f64> = x.iter().map(|v| (v - mean) / sd).collect();
    let y = (0..x.len())
        .map(|i| normal[i] * weight[i] + bias[i])
        .collect();
    let gw: Vec<f64> = grad.iter().zip(weight).map(|(g, w)| g * w).collect();
    let a = gw.iter().sum::<f64>() / n;
    let b = gw.iter().zip(&normal).map(|(g, x)| g * x).sum::<f64>() / n;
    let dx = (0..x.len())
        .map(|i| (gw[i] - a - normal[i] * b) / sd)
        .collect();
    let dw = grad.iter().zip(&normal).map(|(g, x)| g * x).collect();
    [y, dx, dw, grad.to_vec()]
}
