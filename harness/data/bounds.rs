//! What an image may claim, and what its decoder may allocate.

use super::jpeg::MOST_PIXELS;

/// Bytes that a decoder may allocate beside those of the file and of the pixels, of up to eight each.
pub const BESIDE_PIXELS: usize = 16 << 20;

/// Checks the pixels that a header claims.
pub fn within_bound(width: usize, height: usize) -> Result<(), String> {
    match width.saturating_mul(height) > MOST_PIXELS {
        true => Err(format!(
            "claims {width} x {height} pixels, expected at most {MOST_PIXELS}"
        )),
        false => Ok(()),
    }
}
