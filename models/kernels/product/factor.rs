//! Row-major factors of products in f32 or rounded to bf16, and the three products that training needs.
//!
//! A rounded factor has the neighbours of a row in pairs, the lower column in the low half, because `vdpbf16ps` multiplies pairs along the
//! inner index. If the inner index counts rows, pairs of two rows are made first. Sums are f32. The instruction, like AMX, treats subnormal numbers as
//! zero. On a machine without it, the rounded numbers are multiplied in f32, where sums are rounded in another order.

use gemm::Parallelism;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

use super::form::{Form, Packed};
use super::matrix::{Job, Mat, MatMut, Start};
use super::multiply::{multiply, new};
#[cfg(target_arch = "x86_64")]
use super::side::Side;

#[cfg(target_arch = "x86_64")]
use super::{tiles, x86};

/// Returns whether this machine multiplies bf16 by an instruction of its own.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::Pairs::try_new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Returns whether this machine multiplies bf16 in tile registers (AMX), whose sums are rounded in another order.
pub fn has_amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::Pairs::try_new().is_some_and(|machine| machine.unit().is_some());
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Returns why products cannot be computed on this machine; `None` if they can. `gemm` chooses its kernels by FMA and AVX-512F alone, and needs the
/// other instructions of such processors, too.
pub fn unsupported() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    {
        let half = |has: bool, whole: bool| has && !whole;
        let found = [
            (
                "FMA",
                "AVX2, BMI1, BMI2 and LZCNT",
                half(is_x86_feature_detected!("fma"), V3::try_new().is_some()),
            ),
            (
                "AVX-512F",
                "AVX-512 BW, CD, DQ and VL",
                half(is_x86_feature_detected!("avx512f"), V4::try_new().is_some()),
            ),
        ];
        let found = found.into_iter().find(|(.., half)| *half);
        found.map(|(has, lacks, _)| {
            format!(
                "this processor, or its virtual machine, has {has} without {lacks}, which matrix products need; use another machine, or have \
                 the virtual machine show all instructions of its host"
            )
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// A matrix to multiply, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    pub(super) numbers: View<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Distance between rows in numbers or pairs.
    pub(super) stride: usize,
    /// The whole matrix as a packed right factor.
    pub(super) packed: &'a [Packed],
}

/// The numbers of a factor, or its pairs of bf16.
#[derive(Clone, Copy, Debug)]
pub(super) enum View<'a> {
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
    pub(super) fn exact<'s>(self, space: &'s mut Vec<f32>) -> Mat<'s>
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
    multiply(&scaled.job((out, stride), left, right), Parallelism::None);
}

#[cfg(test)]
mod tests;
