//! Huffman codes and the coefficients of one block.

use std::rc::Rc;

use super::idct::Block;

/// Number of bits in a lookup.
const LOOKUP_BITS: u32 = 9;
/// Value of [`Entry::run`] that ends the block.
const END: u8 = 64;

/// The content of the next [`LOOKUP_BITS`] bits: a code and, for the coefficients of a block, the value after it if it fits.
#[derive(Clone, Copy, Default)]
struct Entry {
    value: i16,
    /// Number of zeros before the value, or [`END`].
    run: u8,
    /// Bits of both; 0 if they exceed [`LOOKUP_BITS`] bits, or for a run of 16 zeros.
    bits: u8,
}

/// Number of zeros after a segment, which allow reading ahead.
pub const PADDING: usize = 16;

/// A component of the image.
pub struct Component {
    /// Blocks per unit, horizontally.
    pub across: usize,
    /// Blocks per unit, vertically.
    pub down: usize,
    /// Samples per side of a block: 8 for full size.
    pub block: usize,
    /// Quantisation step and position in the block of each coefficient, in the file's order.
    pub steps: [(i16, u8); 64],
    /// Huffman table of the DC coefficients.
    pub dc: Rc<Table>,
    /// Huffman table of the AC coefficients.
    pub ac: Rc<Table>,
}

impl Component {
    /// Returns the samples of a unit, horizontally and vertically.
    pub fn unit(&self) -> (usize, usize) {
        (self.across * self.block, self.down * self.block)
    }
}

/// A Huffman table.
pub struct Table {
    /// Length and symbol of the code at the start of the looked-up bits; length 0 if the code is longer.
    codes: Vec<(u8, u8)>,
    entries: Vec<Entry>,
    /// Per length in bits: the first code that is too large, aligned to 16 bits, and the symbol index of code 0.
    longer: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Table {
    /// Creates the table with `counts[i]` codes of `i + 1` bits; `None` if the counts are invalid.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut codes = vec![(0, 0); 1 << LOOKUP_BITS];
        let mut longer = [(0, 0); 17];
        let (mut code, mut index) = (0_u32, 0_usize);
        for (bits, count) in (1_u32..).zip(counts) {
            longer[bits as usize].1 = index as i32 - code as i32;
            for _ in 0..*count {
                // A code of all ones is not allowed.
                if code + 1 >= 1 << bits {
                    return None;
                }
                if bits <= LOOKUP_BITS {
                    let (first, span) = (code << (LOOKUP_BITS - bits), 1 << (LOOKUP_BITS - bits));
                    codes[first as usize..][..span].fill((bits as u8, symbols[index]));
                }
                code += 1;
                index += 1;
            }
            longer[bits as usize].0 = code << (16 - bits);
            code <<= 1;
        }
        let entries = (0_u32..)
            .zip(&codes)
            .map(|(lookup, code)| entry(lookup, *code));
        Some(Self {
            entries: entries.collect(),
            codes,
            longer,
            symbols: symbols.to_vec(),
        })
    }

    /// Reads the next symbol.
    #[inline(always)]
    fn symbol(&self, bits: &mut Bits<'_>) -> Option<u8> {
        let (length, symbol) = self.codes[bits.peek(LOOKUP_BITS) as usize];
        if length > 0 {
            bits.skip(u32::from(length));
            return Some(symbol);
        }
        let next = bits.peek(16);
        let length = (LOOKUP_BITS + 1..=16).find(|n| next < self.longer[*n as usize].0)?;
        bits.skip(length);
        let index = (next >> (16 - length)) as i32 + self.longer[length as usize].1;
        self.symbols.get(index as usize).copied()
    }
}

fn entry(lookup: u32, (bits, symbol): (u8, u8)) -> Entry {
    let (run, size) = (symbol >> 4, symbol & 15);
    let both = bits + size;
    match (bits, run, size) {
        (0, ..) | (_, 1..=15, 0) => Entry::default(),
        (_, 0, 0) => Entry {
            value: 0,
            run: END,
            bits,
        },
        _ if u32::from(both) > LOOKUP_BITS => Entry::default(),
        _ => {
            let after = (lookup >> (LOOKUP_BITS - u32::from(both))) & ((1 << size) - 1);
            Entry {
                value: signed(after, u32::from(size)) as i16,
                run,
                bits: both,
            }
        }
    }
}

/// Decodes a value of `size` bits. Values with a leading 0 are negative.
#[inline(always)]
fn signed(value: u32, size: u32) -> i32 {
    let negative = (value >> (size - 1)) & 1 == 0;
    value as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// Reads the bits of a segment, most significant bit first.
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the top; at least `count` of them are valid.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Creates a reader of a segment that ends with [`PADDING`] zeros.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            buffer: 0,
            count: 0,
        }
    }

    /// Provides at least 32 bits; `None` beyond the end of the segment.
    #[inline(always)]
    fn refill(&mut self) -> Option<()> {
        if self.count < 32 {
            let next = self.bytes.get(self.at..)?.first_chunk()?;
            // The bits beyond `count` are read again next time, with the same values.
            self.buffer |= u64::from_be_bytes(*next) >> self.count;
            let bytes = (63 - self.count) / 8;
            self.at += bytes as usize;
            self.count += 8 * bytes;
        }
        Some(())
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        let value = signed(self.peek(size), size);
        self.skip(size);
        value
    }

    /// Returns `None` if more bits were read than the segment has.
    pub fn whole(&self) -> Option<()> {
        let read = 8 * self.at - self.count as usize;
        (read <= 8 * (self.bytes.len() - PADDING)).then_some(())
    }
}

impl Component {
    /// Reads one block's coefficients, times their steps, into a block of zeros; `None` if they are invalid.
    #[inline(always)]
    pub fn read(&self, bits: &mut Bits<'_>, last_dc: &mut i32, mut out: Block<'_>) -> Option<()> {
        bits.refill()?;
        let size = u32::from(self.dc.symbol(bits)?);
        if size > 11 {
            return None;
        }
        if size > 0 {
            *last_dc += bits.value(size);
        }
        out.set(0, (*last_dc as i16).wrapping_mul(self.steps[0].0));
        let mut k = 1;
        while k < 64 {
            bits.refill()?;
            let entry = self.ac.entries[bits.peek(LOOKUP_BITS) as usize];
            let (run, value) = if entry.bits > 0 {
                bits.skip(u32::from(entry.bits));
                (entry.run, entry.value)
            } else {
                match self.ac.symbol(bits)? {
                    0 => (END, 0),
                    0xF0 => (15, 0),
                    symbol if symbol & 15 == 0 => return None,
                    symbol => (symbol >> 4, bits.value(u32::from(symbol & 15)) as i16),
                }
            };
            if run == END {
                break;
            }
            k += usize::from(run);
            let (step, place) = *self.steps.get(k)?;
            out.set(place, value.wrapping_mul(step));
            k += 1;
        }
        Some(())
    }
}
