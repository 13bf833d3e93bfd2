//! The weights of Pillow's bicubic resampling (`libImaging/Resample.c`).

/// Fraction bits of a weight.
pub const PRECISION: u32 = 32 - 8 - 2;

/// Appends the weights of one output position to `weights` and returns the first of the `input` pixels to which they apply. `center` is
/// the position's centre and `stretch` (at least 1) its width, both in input pixels.
pub fn add_taps(center: f64, stretch: f64, input: usize, weights: &mut Vec<i32>) -> usize {
    let support = 2.0 * stretch;
    let start = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(input);
    let weight = |x| bicubic((x as f64 - center + 0.5) / stretch);
    let total: f64 = (start..end).map(weight).sum();
    let unit = f64::from(1_u32 << PRECISION);
    weights.extend((start..end).map(|x| {
        let fixed = weight(x) / total * unit;
        (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32
    }));
    start
}

/// Keys' cubic kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    let (x, a) = (x.abs(), -0.5);
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}
