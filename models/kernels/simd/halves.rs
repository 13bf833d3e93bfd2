//! Rounding of f32 to bf16: to nearest, ties to even. NaN stays NaN.

use std::mem::MaybeUninit;

use half::bf16;

/// Rounds numbers to pairs of neighbours, the first in the low half. A last number alone has a zero beside it. Writes every pair.
///
/// # Panics
/// If there are more or fewer pairs.
#[inline(always)]
pub fn to_pairs(values: &[f32], pairs: &mut [MaybeUninit<u32>]) {
    assert_eq!(pairs.len(), values.len().div_ceil(2), "pairs");
    let (whole, rest) = values.as_chunks::<2>();
    for (pair, [low, high]) in pairs.iter_mut().zip(whole) {
        pair.write(bits(*low) >> 16 | bits(*high) & 0xffff_0000);
    }
    if let ([last], Some(pair)) = (rest, pairs.last_mut()) {
        pair.write(bits(*last) >> 16);
    }
}

/// Rounds numbers one by one.
#[inline(always)]
pub fn to_halves(values: &[f32], halves: &mut [bf16]) {
    for (half, value) in halves.iter_mut().zip(values) {
        *half = bf16::from_bits((bits(*value) >> 16) as u16);
    }
}

/// Returns the bits of the nearest bf16, followed by 16 bits without meaning.
#[inline(always)]
fn bits(value: f32) -> u32 {
    let bits = value.to_bits();
    match value.is_nan() {
        true => bits | 0x0040_0000,
        false => bits.wrapping_add(0x7fff + (bits >> 16 & 1)),
    }
}
