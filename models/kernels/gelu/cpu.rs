//! Branch-free f32 forms that the compiler turns into vector code.

/// `exp(x)` for `x <= 0`: range reduction to +-ln 2 / 2 and a polynomial of degree 6, relative error below 2e-7.
#[inline]
pub fn exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    let n = (x * std::f32::consts::LOG2_E + 0.5).floor();
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f32::from_bits((((n as i32) + 127) << 23) as u32)
}

/// The standard normal's distribution function, absolute error below 2e-7 (Abramowitz and Stegun 7.1.26 for erfc).
#[inline]
pub fn phi(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// `d gelu / dx = Phi(x) + x phi(x)`.
#[inline]
pub fn derivative(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3;
    phi(x) + x * DENSITY * exp(-0.5 * x * x)
}
