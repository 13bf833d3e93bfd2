//! Operands and destinations of matrix products.

/// A read-only matrix with any row and column stride.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix of `[rows, cols]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix of `[rows, cols]` whose rows start every `row_stride` numbers.
    ///
    /// # Panics
    /// If `data` is too short.
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

    /// Returns the transpose, without copying.
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

/// A writable matrix whose rows start every `row_stride` numbers.
#[derive(Debug)]
pub struct MatMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A row-major matrix of `[rows, cols]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix of `[rows, cols]` whose rows start every `row_stride` numbers.
    ///
    /// # Panics
    /// If `data` is too short or rows overlap.
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

/// The initial value to which a product is added.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Zero.
    Zero,
    /// The present contents of the destination.
    There,
    /// A row vector: one number per column.
    Row(&'a [f32]),
    /// A row-major matrix of the result's size, plus a row vector with one number per column.
    Sum(&'a [f32], &'a [f32]),
}

impl Start<'_> {
    /// Checks the initial value against the size of the result.
    ///
    /// # Panics
    /// If the sizes differ.
    pub(super) fn check(self, rows: usize, cols: usize) {
        let fits = match self {
            Self::Zero | Self::There => true,
            Self::Row(row) => row.len() == cols,
            Self::Sum(matrix, row) => matrix.len() == rows * cols && row.len() == cols,
        };
        assert!(fits, "a start of a product of {rows}x{cols}");
    }
}

/// A product `start + factor * a b`.
#[derive(Clone, Copy)]
pub(super) struct Job<'a, T> {
    /// Left operand.
    pub a: T,
    /// Right operand.
    pub b: T,
    /// Factor of the product.
    pub factor: f32,
    /// Initial value.
    pub start: Start<'a>,
    /// Rows of numbers of the product's size, valid for writing, and for reading if `start` is [`Start::There`].
    pub out: *mut f32,
    /// Distance between rows of `out` in numbers.
    pub stride: usize,
}
