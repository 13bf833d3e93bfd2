//! Row-major factors of products in f32 or rounded to bf16, and the three products that training needs.
//!
//! A rounded factor has the neighbours of a row in pairs, the lower column in the low half, because `vdpbf16ps` multiplies pairs along the
//! inner index. If the inner index counts rows, pairs of two rows are made first. Sums are f32. The instruction treats subnormal numbers as
//! zero. On a machine without it, the rounded numbers are multiplied in f32, where sums are rounded in another order.

use std::borrow::Cow;

use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use pulp::bytemuck::try_cast_slice;

use super::form::{Form, Packed};
use super::matrix::{Job, Mat, MatMut, Start};
use super::multiply::{multiply, new};
#[cfg(target_arch = "x86_64")]
use super::side::Side;

#[cfg(target_arch = "x86_64")]
use super::{tiles, x86};
use crate::simd::vectorized;

/// Returns whether this machine multiplies bf16 by an instruction of its own.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::Pairs::try_new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

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
        let numbers = match rounding {
            Rounding::Exact => Numbers::F32(values),
            Rounding::Bf16 => Numbers::Bf16(rounded(&values, cols).into()),
        };
        Self {
            numbers,
            rows,
            cols,
            packed: &[],
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
        Self {
            numbers: Numbers::Bf16(pairs),
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

/// A matrix to multiply, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    numbers: View<'a>,
    rows: usize,
    cols: usize,
    /// Distance between rows in numbers or pairs.
    stride: usize,
    /// The whole matrix as a packed right factor.
    packed: &'a [Packed],
}

#[derive(Clone, Copy, Debug)]
enum View<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u32]),
}

impl<'a> Factor<'a> {
    fn size(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Returns `rows` rows from `row` and `cols` columns from `col`.
    ///
    /// # Panics
    /// If they are outside, or if a rounded factor would be cut inside a pair.
    #[must_use]
    pub fn part(self, (row, rows): (usize, usize), (col, cols): (usize, usize)) -> Self {
        assert!(
            row + rows <= self.rows && col + cols <= self.cols,
            "rows {row}+{rows}, columns {col}+{cols} of {}x{}",
            self.rows,
            self.cols
        );
        let numbers = match self.numbers {
            View::F32(values) => View::F32(&values[row * self.stride + col..]),
            View::Bf16(pairs) => {
                let end = (col + cols).is_multiple_of(2) || col + cols == self.cols;
                assert!(
                    col.is_multiple_of(2) && end,
                    "columns {col}+{cols} in pairs"
                );
                View::Bf16(&pairs[row * self.stride + col / 2..])
            }
        };
        Self {
            numbers,
            rows,
            cols,
            packed: &[],
            ..self
        }
    }

    /// Returns what tiles read instead of this right factor in a product in `form`.
    #[cfg(target_arch = "x86_64")]
    fn packed(self, form: Form) -> Option<&'a [f32]> {
        self.packed.iter().find_map(|packed| packed.lanes(form))
    }

    /// Packs this factor into `packed` as the right one of products in `form`, if they use tiles.
    pub fn pack(self, form: Form, packed: &mut Packed) {
        packed.renew(form, |lanes| {
            #[cfg(target_arch = "x86_64")]
            if let (View::Bf16(pairs), Some(machine)) = (self.numbers, x86::Pairs::try_new()) {
                let (_, by_rows) = form.inner_counts_rows();
                tiles::pack(machine, self.side(pairs, by_rows), lanes);
                return true;
            }
            false
        });
    }

    #[cfg(target_arch = "x86_64")]
    fn side(self, pairs: &'a [u32], inner_counts_rows: bool) -> Side<'a> {
        Side {
            pairs,
            stride: self.stride,
            rows: self.rows,
            cols: self.cols,
            inner_counts_rows,
        }
    }

    /// Returns the numbers of a f32 factor as a matrix; those of a rounded one are written to `space` first.
    fn exact<'s>(self, space: &'s mut Vec<f32>) -> Mat<'s>
    where
        'a: 's,
    {
        match self.numbers {
            View::F32(values) => Mat::strided(values, self.rows, self.cols, self.stride),
            View::Bf16(pairs) => {
                for pairs in pairs.chunks(self.stride.max(1)).take(self.rows) {
                    let both = pairs
                        .iter()
                        .flat_map(|pair| [pair << 16, pair & 0xffff_0000]);
                    space.extend(both.map(f32::from_bits).take(self.cols));
                }
                Mat::new(space, self.rows, self.cols)
            }
        }
    }
}

/// `start + factor * product` in a form.
#[derive(Clone, Copy)]
struct Scaled<'a> {
    form: Form,
    start: Start<'a>,
    factor: f32,
}

impl<'a> Scaled<'a> {
    fn job<T>(self, (out, stride): (*mut f32, usize), a: T, b: T) -> Job<'a, T> {
        Job {
            a,
            b,
            factor: self.factor,
            start: self.start,
            out,
            stride,
        }
    }
}

/// Returns the row-major sum of `start` and the product in a form.
///
/// # Panics
/// If sizes differ, if one factor is rounded and the other is not, or if `start` is [`Start::There`]: a new result has no contents.
pub fn product_of(form: Form, start: Start<'_>, a: Factor<'_>, b: Factor<'_>) -> Vec<f32> {
    let [rows, cols] = form.size(a.size(), b.size());
    new(start, rows * cols, |out| {
        let scaled = Scaled {
            form,
            start,
            factor: 1.0,
        };
        write(out, cols, scaled, a, b);
    })
}

/// Computes `out = start + factor * product`.
///
/// # Panics
/// If sizes differ, or if one factor is rounded and the other is not.
pub fn product_of_into(
    out: MatMut<'_>,
    form: Form,
    start: Start<'_>,
    factor: f32,
    a: Factor<'_>,
    b: Factor<'_>,
) {
    let found = [out.rows, out.cols];
    assert_eq!(found, form.size(a.size(), b.size()), "destination");
    let scaled = Scaled {
        form,
        start,
        factor,
    };
    write(out.data.as_mut_ptr(), out.row_stride, scaled, a, b);
}

/// Implements [`product_of_into`]. `out` must be valid as for `multiply`.
fn write(out: *mut f32, stride: usize, scaled: Scaled<'_>, a: Factor<'_>, b: Factor<'_>) {
    #[cfg(target_arch = "x86_64")]
    if let (View::Bf16(left), View::Bf16(right), Some(machine)) =
        (a.numbers, b.numbers, x86::Pairs::try_new())
        && scaled.form.inner(a.size(), b.size()) > 0
        && scaled.form.size(a.size(), b.size())[1] > 0
    {
        let [rows, cols] = scaled.form.size(a.size(), b.size());
        scaled.start.check(rows, cols);
        let (a_by_rows, b_by_rows) = scaled.form.inner_counts_rows();
        let (left, right) = (a.side(left, a_by_rows), b.side(right, b_by_rows));
        let job = scaled.job((out, stride), left, right);
        return tiles::run(machine, &job, b.packed(scaled.form));
    }
    in_f32(out, stride, scaled, a, b);
}

/// Implements [`product_of_into`] without instructions for bf16.
fn in_f32(out: *mut f32, stride: usize, scaled: Scaled<'_>, a: Factor<'_>, b: Factor<'_>) {
    let same = matches!(a.numbers, View::Bf16(_)) == matches!(b.numbers, View::Bf16(_));
    assert!(same, "factors of two types");
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let left = scaled.form.left(a.exact(&mut left));
    let right = scaled.form.right(b.exact(&mut right));
    multiply(&scaled.job((out, stride), left, right));
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

/// Rounds rows of `cols` numbers to pairs. A last number alone has a zero beside it.
fn rounded(values: &[f32], cols: usize) -> Vec<u32> {
    let cols = cols.max(1);
    let wide = cols.div_ceil(2);
    let len = values.len() / cols * wide;
    let mut pairs = Vec::with_capacity(len);
    let rows = pairs.spare_capacity_mut()[..len].chunks_exact_mut(wide);
    let mut rows = rows.zip(values.chunks_exact(cols));
    vectorized(
        #[inline(always)]
        || {
            for (row, values) in &mut rows {
                let (whole, rest) = values.as_chunks::<2>();
                for (pair, [low, high]) in row.iter_mut().zip(whole) {
                    pair.write(bits(*low) >> 16 | bits(*high) & 0xffff_0000);
                }
                if let ([last], Some(pair)) = (rest, row.last_mut()) {
                    pair.write(bits(*last) >> 16);
                }
            }
        },
    );
    #[expect(unsafe_code, reason = "zeros would be overwritten immediately")]
    // SAFETY: `values` has whole rows (its users check the size), so the loop has written every pair of every row.
    unsafe {
        pairs.set_len(len);
    }
    pairs
}

/// Returns the bits of the nearest bf16, followed by 16 bits without meaning. NaN stays NaN.
#[inline(always)]
fn bits(value: f32) -> u32 {
    let bits = value.to_bits();
    match value.is_nan() {
        true => bits | 0x0040_0000,
        false => bits.wrapping_add(0x7fff + (bits >> 16 & 1)),
    }
}

#[cfg(test)]
mod tests;
