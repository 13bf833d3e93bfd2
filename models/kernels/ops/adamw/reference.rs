//! The definition in f64, for one element.

/// Returns `[value, first, second]` after step number `n` (from 1) with learning rate `lr` and epsilon 1e-8.
pub fn step(
    [value, first, second]: [f64; 3],
    grad: f64,
    lr: f64,
    weight_decay: f64,
    [b1, b2]: [f64; 2],
    n: i32,
) -> [f64; 3] {
    let m = b1 * first + (1.0 - b1) * grad;
    let v = b2 * second + (1.0 - b2) * grad * grad;
    let (m_hat, v_hat) = (m / (1.0 - b1.powi(n)), v / (1.0 - b2.powi(n)));
    let value = value - lr * weight_decay * value - lr * m_hat / (v_hat.sqrt() + 1e-8);
    [value, m, v]
}
