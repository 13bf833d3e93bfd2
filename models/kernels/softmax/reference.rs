//! The definition in f64.

/// One row: output and the input's gradient for the output's gradient `grad`.
pub fn row(x: &[f64], grad: &[f64], scale: f64) -> [Vec<f64>; 2] {
    let exps: Vec<f64> = x.iter().map(|v| (v * scale).exp()).collect();
    let sum: f64 = exps.iter().sum();
    let y: Vec<f64> = exps.iter().map(|e| e / sum).collect();
    let dot: f64 = y.iter().zip(grad).map(|(y, g)| y * g).sum();
    let dx = y
        .iter()
        .zip(grad)
        .map(|(y, g)| scale * y * (g - dot))
        .collect();
    [y, dx]
}
