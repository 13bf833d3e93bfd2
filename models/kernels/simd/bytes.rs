//! Transposes blocks of eight by eight bytes with 64-bit words.

/// Returns the transpose: byte `i` of word `j` (little-endian) becomes byte `j` of word `i`.
#[inline(always)]
pub fn transposed(mut words: [u64; 8]) -> [u64; 8] {
    swap(&mut words, 4, 0x0000_0000_FFFF_FFFF);
    swap(&mut words, 2, 0x0000_FFFF_0000_FFFF);
    swap(&mut words, 1, 0x00FF_00FF_00FF_00FF);
    words
}

/// Exchanges bytes at `distance` between words at `distance`; `low` masks the bytes that stay in the first word.
#[inline(always)]
fn swap(words: &mut [u64; 8], distance: usize, low: u64) {
    let shift = 8 * distance;
    for i in (0..8).filter(|i| i & distance == 0) {
        let moved = ((words[i] >> shift) ^ words[i + distance]) & low;
        words[i + distance] ^= moved;
        words[i] ^= moved << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let bytes: [[u8; 8]; 8] =
            std::array::from_fn(|i| std::array::from_fn(|j| (8 * i + j) as u8));
        let turned = transposed(bytes.map(u64::from_le_bytes)).map(u64::to_le_bytes);
        for i in 0..8 {
            for j in 0..8 {
                assert_eq!(turned[i][j], bytes[j][i], "{i} {j}");
            }
        }
    }
}
