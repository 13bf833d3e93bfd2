//! Matrix products of slices on one thread: the `gemm` crate behind checked sizes. Callers run shards side by side.

use gemm::Parallelism;

/// A matrix that is read: rows and columns at any stride.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `[rows, cols]`, row after row.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `[rows, cols]`, a row beginning every `row_stride` numbers.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride);
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// Transposed, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix that is written, a row beginning every `row_stride` numbers.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `[rows, cols]`, row after row.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `[rows, cols]`, a row beginning every `row_stride` numbers.
    ///
    /// # Panics
    /// When `data` is too short or rows overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride);
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

fn check(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let needed = match rows {
        0 => 0,
        rows => (rows - 1) * row_stride + cols,
    };
    assert!(
        len >= needed && (rows <= 1 || row_stride >= cols),
        "{rows}x{cols} at stride {row_stride} in {len} numbers"
    );
}

/// `a b`, row after row.
///
/// # Panics
/// When the inner sizes differ.
pub fn product(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    let len = a.rows * b.cols;
    let mut out = Vec::with_capacity(len);
    multiply(out.as_mut_ptr(), b.cols, false, 1.0, a, b);
    #[expect(unsafe_code, reason = "zeros would be written over at once")]
    // SAFETY: the capacity is `len`, and without reading the destination `multiply` has written all `rows * cols` of it.
    unsafe {
        out.set_len(len);
    }
    out
}

/// `out = factor * a b`.
///
/// # Panics
/// When sizes differ.
pub fn product_into(out: MatMut<'_>, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    into(out, false, factor, a, b);
}

/// `out += factor * a b`.
///
/// # Panics
/// When sizes differ.
pub fn add_product(out: MatMut<'_>, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    into(out, true, factor, a, b);
}

fn into(out: MatMut<'_>, add: bool, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    assert_eq!((out.rows, out.cols), (a.rows, b.cols), "destination");
    multiply(out.data.as_mut_ptr(), out.row_stride, add, factor, a, b);
}

/// `out = factor * a b`, added to what is there when `add`. `out` is valid for `a.rows` rows of `b.cols` numbers at
/// `stride`; it need not be initialised unless `add`.
fn multiply(out: *mut f32, stride: usize, add: bool, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    assert_eq!(a.cols, b.rows, "inner size");
    #[expect(unsafe_code, reason = "gemm takes pointers and strides")]
    // SAFETY: both operands' last element lies within their slices (`check`, kept by `t`); the private callers pass a
    // destination of `a.rows` rows of `b.cols` numbers that nobody else sees; it is read only when `add`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + salt * 104_729) % 1009) as f32 / 256.0 - 2.0)
            .collect()
    }

    fn loops(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        let at =
            |m: Mat<'_>, i: usize, j: usize| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
        let cell = |i, j| (0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum::<f64>() as f32;
        (0..a.rows)
            .flat_map(|i| (0..b.cols).map(move |j| (i, j)))
            .map(|(i, j)| cell(i, j))
            .collect()
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let close = |(f, e): (&f32, &f32)| (f - e).abs() <= 1e-3 + 1e-5 * e.abs();
        assert!(found.iter().zip(expected).all(close));
    }

    #[test]
    fn products_are_the_loops_ones() {
        for (m, k, n) in [
            (1, 1, 1),
            (3, 5, 2),
            (17, 64, 17),
            (33, 7, 130),
            (1100, 3, 9),
        ] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let (a_t, b_t) = (numbers(k * m, 3), numbers(n * k, 4));
            let plain = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            let turned = (Mat::new(&a_t, k, m).t(), Mat::new(&b_t, n, k).t());
            for (a, b) in [plain, turned, (plain.0, turned.1), (turned.0, plain.1)] {
                assert_close(&product(a, b), &loops(a, b));
            }
        }
    }

    #[test]
    fn strided_blocks_are_read_and_written_in_place() {
        let (wide, b) = (numbers(6 * 10, 5), numbers(4 * 3, 6));
        let a = Mat::strided(&wide[2..], 6, 4, 10);
        let b = Mat::new(&b, 4, 3);
        let mut out = [9.0; 6 * 7];
        product_into(MatMut::strided(&mut out[1..], 6, 3, 7), 1.0, a, b);
        add_product(MatMut::strided(&mut out[1..], 6, 3, 7), -3.0, a, b);
        let expected = loops(a, b);
        for (row, expected) in out.chunks(7).zip(expected.chunks(3)) {
            let expected: Vec<f32> = expected.iter().map(|v| -2.0 * v).collect();
            assert_close(&row[1..4], &expected);
            assert!(row[..1].iter().chain(&row[4..]).all(|v| *v == 9.0));
        }
    }

    #[test]
    #[should_panic(expected = "4x4 at stride 4 in 15 numbers")]
    fn a_short_slice_is_refused() {
        Mat::new(&[0.0; 15], 4, 4);
    }
}
