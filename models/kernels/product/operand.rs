//! Matrices that products multiply, in f32 or rounded to bf16 row by row.

use std::borrow::Cow;

use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use pulp::bytemuck::try_cast_slice;

use super::factor::{Factor, View};
use super::form::Packed;
use crate::simd::halves::to_pairs;
use crate::simd::{Fused, fused, vectorized};

/// The numbers that products multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// f32 as they are.
    Exact,
    /// f32 rounded to bf16 (to nearest, ties to even).
    Bf16,
}

/// A row-major matrix to multiply, owned or borrowed.
#[derive(Clone, Debug)]
pub struct Operand<'a> {
    numbers: Numbers<'a>,
    rows: usize,
    cols: usize,
    packed: &'a [Packed],
}

#[derive(Clone, Debug)]
enum Numbers<'a> {
    F32(Cow<'a, [f32]>),
    /// Pairs of bf16, `cols.div_ceil(2)` a row.
    Bf16(Cow<'a, [u32]>),
}

impl<'a> Operand<'a> {
    /// Prepares `values` `[rows, cols]`, which are borrowed or owned.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn new(
        values: impl Into<Cow<'a, [f32]>>,
        [rows, cols]: [usize; 2],
        rounding: Rounding,
    ) -> Self {
        let values = values.into();
        assert_eq!(values.len(), rows * cols, "a factor of {rows}x{cols}");
        match rounding {
            Rounding::Exact => Self::of(Numbers::F32(values), [rows, cols]),
            Rounding::Bf16 => {
                let mut made = Rows::new([rows, cols], rounding);
                vectorized(
                    #[inline(always)]
                    || {
                        for row in values.chunks_exact(cols.max(1)) {
                            made.push(row);
                        }
                    },
                );
                made.operand()
            }
        }
    }

    /// Prepares `values` `[rows, cols]`, which are borrowed if their memory already has pairs.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn of_bf16(values: &'a [bf16], [rows, cols]: [usize; 2]) -> Self {
        assert_eq!(values.len(), rows * cols, "a factor of {rows}x{cols}");
        let whole = cols.is_multiple_of(2) && cfg!(target_endian = "little");
        let pairs = match try_cast_slice(values.reinterpret_cast()) {
            Ok(pairs) if whole => Cow::Borrowed(pairs),
            _ => Cow::Owned(paired(values, cols)),
        };
        Self::of(Numbers::Bf16(pairs), [rows, cols])
    }

    /// Changes every row of `cols` numbers in place by `change`, which also gets the row's index, and prepares all rows for products.
    ///
    /// # Panics
    /// If a row is not whole.
    pub fn changed(
        values: &'a mut [f32],
        cols: usize,
        rounding: Rounding,
        mut change: impl FnMut(Fused, usize, &mut [f32]),
    ) -> Self {
        assert!(values.len().is_multiple_of(cols), "whole rows of {cols}");
        let size = [values.len() / cols, cols];
        let mut made = (rounding != Rounding::Exact).then(|| Rows::new(size, rounding));
        fused(
            #[inline(always)]
            |by| {
                for (at, row) in values.chunks_exact_mut(cols).enumerate() {
                    change(by, at, row);
                    if let Some(made) = &mut made {
                        made.push(row);
                    }
                }
            },
        );
        match made {
            Some(made) => made.operand(),
            None => Self::new(&*values, size, rounding),
        }
    }

    /// Calls `see` with every row of `cols` numbers, and prepares all rows for products.
    ///
    /// # Panics
    /// If a row is not whole.
    pub fn seen(
        values: &'a [f32],
        cols: usize,
        rounding: Rounding,
        mut see: impl FnMut(&[f32]),
    ) -> Self {
        assert!(values.len().is_multiple_of(cols), "whole rows of {cols}");
        let size = [values.len() / cols, cols];
        let mut made = (rounding != Rounding::Exact).then(|| Rows::new(size, rounding));
        vectorized(
            #[inline(always)]
            || {
                for row in values.chunks_exact(cols) {
                    see(row);
                    if let Some(made) = &mut made {
                        made.push(row);
                    }
                }
            },
        );
        match made {
            Some(made) => made.operand(),
            None => Self::new(values, size, rounding),
        }
    }

    /// Returns the numbers in f32.
    pub fn into_exact(self) -> Vec<f32> {
        match self.numbers {
            Numbers::F32(values) => values.into_owned(),
            Numbers::Bf16(_) => {
                let mut values = Vec::new();
                self.factor().exact(&mut values);
                values
            }
        }
    }

    fn of(numbers: Numbers<'a>, [rows, cols]: [usize; 2]) -> Self {
        Self {
            numbers,
            rows,
            cols,
            packed: &[],
        }
    }

    /// Lets products in which the whole matrix is the right factor read one of `packed`, which must be made from the same numbers.
    #[must_use]
    pub fn with(self, packed: &'a [Packed]) -> Self {
        Self { packed, ..self }
    }

    /// How the numbers are rounded.
    pub fn rounding(&self) -> Rounding {
        match self.numbers {
            Numbers::F32(_) => Rounding::Exact,
            Numbers::Bf16(_) => Rounding::Bf16,
        }
    }

    /// The whole matrix.
    pub fn factor(&self) -> Factor<'_> {
        let (numbers, stride) = match &self.numbers {
            Numbers::F32(values) => (View::F32(values), self.cols),
            Numbers::Bf16(pairs) => (View::Bf16(pairs), self.cols.div_ceil(2)),
        };
        Factor {
            numbers,
            rows: self.rows,
            cols: self.cols,
            stride,
            packed: self.packed,
        }
    }
}

/// An operand in the making. A row is rounded while the L1 cache holds it.
#[derive(Debug)]
pub struct Rows {
    numbers: Made,
    size: [usize; 2],
}

#[derive(Debug)]
enum Made {
    F32(Vec<f32>),
    Bf16(Vec<u32>),
}

impl Rows {
    /// Begins an operand of `rows` rows of `cols` numbers.
    pub fn new(size @ [rows, cols]: [usize; 2], rounding: Rounding) -> Self {
        let wide = cols.div_ceil(2);
        let numbers = match rounding {
            Rounding::Exact => Made::F32(Vec::with_capacity(rows * cols)),
            Rounding::Bf16 => Made::Bf16(Vec::with_capacity(rows * wide)),
        };
        Self { numbers, size }
    }

    /// Appends a row.
    ///
    /// # Panics
    /// If its length differs from that of other rows, or, in bf16, if there are more rows than promised.
    #[inline(always)]
    pub fn push(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.size[1], "numbers of a row");
        match &mut self.numbers {
            Made::F32(all) => all.extend_from_slice(values),
            Made::Bf16(pairs) => {
                // `Vec::extend` with an iterator would be a function that is compiled for the baseline.
                let len = pairs.len() + values.len().div_ceil(2);
                let free = &mut pairs.spare_capacity_mut()[..values.len().div_ceil(2)];
                to_pairs(values, free);
                #[expect(unsafe_code, reason = "zeros would be overwritten immediately")]
                // SAFETY: `to_pairs` has written all pairs of `free`, which begins at the present length.
                unsafe {
                    pairs.set_len(len);
                }
            }
        }
    }

    /// Returns the operand.
    ///
    /// # Panics
    /// If the number of rows differs from the promised one.
    pub fn operand(self) -> Operand<'static> {
        let [rows, cols] = self.size;
        match self.numbers {
            Made::F32(all) => Operand::new(all, self.size, Rounding::Exact),
            Made::Bf16(pairs) => {
                assert_eq!(pairs.len(), rows * cols.div_ceil(2), "{rows} rows");
                Operand::of(Numbers::Bf16(pairs.into()), self.size)
            }
        }
    }
}

/// Copies rows of `cols` numbers to pairs. A last number alone has a zero beside it.
fn paired(values: &[bf16], cols: usize) -> Vec<u32> {
    let bits = |value: &bf16| u32::from(value.to_bits());
    let rows = values.chunks_exact(cols.max(1));
    rows.flat_map(|row| {
        let (whole, rest) = row.as_chunks::<2>();
        let pairs = whole
            .iter()
            .map(move |[low, high]| bits(low) | bits(high) << 16);
        pairs.chain(rest.iter().map(bits))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::halves::to_halves;

    /// All 2^16 numbers of bf16 and their neighbours in f32 are rounded as by the crate `half`; NaN stays NaN.
    #[test]
    fn every_number_is_rounded_to_nearest_even() {
        for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let bits = (0..=u16::MAX).map(|high| u32::from(high) << 16 | low);
            let mut values: Vec<f32> = bits.map(f32::from_bits).collect();
            values.push(1.0 / 3.0);
            let mut halves = vec![bf16::ZERO; values.len()];
            vectorized(|| to_halves(&values, &mut halves));
            let of_pairs = Operand::new(&values, [1, values.len()], Rounding::Bf16).into_exact();
            for ((value, half), of_pair) in values.iter().zip(&halves).zip(of_pairs) {
                let expected = bf16::from_f32(*value).to_f32();
                for found in [half.to_f32(), of_pair] {
                    let same = found == expected || found.is_nan() && expected.is_nan();
                    assert!(same, "{value:e}: {found:e}");
                }
            }
        }
    }

    #[test]
    fn rows_are_seen_changed_and_rounded_in_order() {
        let values: Vec<f32> = (0..21_u8).map(|i| f32::from(i) / 3.0).collect();
        for rounding in [Rounding::Exact, Rounding::Bf16] {
            let rounded = |v: f32| match rounding {
                Rounding::Exact => v,
                Rounding::Bf16 => bf16::from_f32(v).to_f32(),
            };
            let mut seen = Vec::new();
            let all = Operand::seen(&values, 7, rounding, |row| seen.extend_from_slice(row));
            assert_eq!((seen, all.rounding()), (values.clone(), rounding));
            assert!(
                all.into_exact()
                    .into_iter()
                    .eq(values.iter().map(|v| rounded(*v)))
            );
            let mut changed = values.clone();
            let all = Operand::changed(&mut changed, 7, rounding, |_, at, row| row[6] = at as f32);
            let found = all.into_exact();
            assert_eq!([changed[6], changed[13], changed[20]], [0.0, 1.0, 2.0]);
            assert!(found.into_iter().eq(changed.iter().map(|v| rounded(*v))));
        }
    }

    #[test]
    #[should_panic(expected = "3 rows")]
    fn missing_rows_are_refused() {
        let mut rows = Rows::new([3, 2], Rounding::Bf16);
        rows.push(&[1.0, 2.0]);
        let _ = rows.operand();
    }
}
