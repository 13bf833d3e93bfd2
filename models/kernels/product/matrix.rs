//! Operands and destinations of a product.

/// A matrix that is read: rows and columns at any stride.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
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
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
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

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// What the destination holds.
    There,
    /// One number per column.
    Row(&'a [f32]),
    /// A matrix of the result's size, row after row, and one number per column.
    Sum(&'a [f32], &'a [f32]),
}

impl Start<'_> {
    pub(super) fn check(self, rows: usize, cols: usize) {
        let fits = match self {
            Self::Zero | Self::There => true,
            Self::Row(row) => row.len() == cols,
            Self::Sum(matrix, row) => matrix.len() == rows * cols && row.len() == cols,
        };
        assert!(fits, "a start of a product of {rows}x{cols}");
    }
}
