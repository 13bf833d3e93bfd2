//! The definition in f64.

/// Returns values and momentum after a step with trust coefficient `trust`, or with the plain gradient.
pub fn step(
    values: &[f64],
    grad: &[f64],
    moment: &[f64],
    [lr, decay, momentum]: [f64; 3],
    trust: Option<f64>,
) -> [Vec<f64>; 2] {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut direction = grad.to_vec();
    if let Some(trust) = trust {
        direction
            .iter_mut()
            .zip(values)
            .for_each(|(d, v)| *d += decay * v);
        let scale = trust * norm(values) / norm(&direction);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    let moment: Vec<f64> = moment
        .iter()
        .zip(direction)
        .map(|(m, d)| momentum * m + d)
        .collect();
    let values = values.iter().zip(&moment).map(|(v, m)| v - lr * m);
    [values.collect(), moment]
}
