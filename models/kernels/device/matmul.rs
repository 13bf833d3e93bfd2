//! Matrix products of a device as plain values, like launches.

use super::launch::{Dtype, Float, LaunchError, Result, product, size};

/// Bytes of which the start of every matrix of a product is a multiple: cuBLASLt assumes it when it chooses an algorithm.
pub const ALIGNMENT: u64 = 256;

/// Which factor of a product is stored transposed. Matrices are stored row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// `left right^T` of `[rows, inner]` and `[cols, inner]`: a linear layer's output, with its weight on the right.
    Output,
    /// `left right` of `[rows, inner]` and `[inner, cols]`: the gradient of the layer's input.
    Input,
    /// `left^T right` of `[inner, rows]` and `[inner, cols]`: the gradient of the layer's weight.
    Weight,
}

/// A matrix product `[rows, cols]` of two bf16 matrices, with f32 sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// Which factor is transposed.
    pub form: Form,
    /// Rows of the product.
    pub rows: usize,
    /// Columns of the product.
    pub cols: usize,
    /// Length of the sums.
    pub inner: usize,
    /// Type of the product.
    pub out: Float,
    /// Add the product to what `out` holds.
    pub add: bool,
}

/// The matrices of a product: memory, or addresses. The factors are bf16; bias and residual have the type of the product.
#[derive(Clone, Copy, Debug)]
pub struct Operands<T> {
    /// The first factor.
    pub left: T,
    /// The second factor.
    pub right: T,
    /// A vector `[cols]` that is added to every row. It excludes [`Form::Weight`].
    pub bias: Option<T>,
    /// A vector `[rows]` in f32 that gets the sums of `left` over `inner`: the gradient of the layer's bias. It needs [`Form::Weight`].
    pub sums: Option<T>,
    /// A matrix `[rows, cols]` that is added. It excludes [`Matmul::add`].
    pub residual: Option<T>,
    /// The product.
    pub out: T,
}

impl<T> Operands<T> {
    /// Operands without a bias, sums and a residual.
    pub fn new(left: T, right: T, out: T) -> Self {
        Self {
            left,
            right,
            bias: None,
            sums: None,
            residual: None,
            out,
        }
    }

    /// Converts every operand.
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> Operands<U> {
        Operands {
            left: to(self.left),
            right: to(self.right),
            bias: self.bias.map(&mut to),
            sums: self.sums.map(&mut to),
            residual: self.residual.map(&mut to),
            out: to(self.out),
        }
    }
}

impl Matmul {
    /// Returns the type and length of every operand; `bias`, `sums` and `residual` are always listed.
    ///
    /// # Errors
    /// If a size is 0 or exceeds 31 bits.
    pub fn lengths(&self) -> Result<Operands<(Dtype, usize)>> {
        let (m, n, k) = (self.rows, self.cols, self.inner);
        for (what, found) in [("rows", m), ("cols", n), ("inner", k)] {
            if found == 0 {
                return Err(LaunchError::Size {
                    kernel: "matmul",
                    what,
                    found,
                    expected: "at least 1",
                });
            }
            size(what, found)?;
        }
        let factor = |len| (Dtype::Bf16, len);
        Ok(Operands {
            left: factor(product("left", &[m, k])?),
            right: factor(product("right", &[n, k])?),
            bias: Some((self.out.dtype(), n)),
            sums: Some((Dtype::F32, m)),
            residual: Some((self.out.dtype(), product("residual", &[m, n])?)),
            out: (self.out.dtype(), product("out", &[m, n])?),
        })
    }

    /// Returns the number of multiplications and additions.
    pub fn flops(&self) -> u64 {
        2 * self.rows as u64 * self.cols as u64 * self.inner as u64
    }

    /// Returns the bytes that the product must at least move with the optional ones of `operands`.
    pub fn bytes<T>(&self, operands: &Operands<T>) -> u64 {
        let bias = u64::from(operands.bias.is_some());
        let sums = u64::from(operands.sums.is_some());
        let residual = u64::from(operands.residual.is_some());
        let (m, n, k) = (self.rows as u64, self.cols as u64, self.inner as u64);
        let outs = m * n * (1 + u64::from(self.add) + residual) + n * bias;
        2 * (m * k + n * k) + self.out.dtype().size() as u64 * outs + 4 * m * sums
    }
}

impl std::fmt::Display for Matmul {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (form, [m, n, k]) = (self.form, [self.rows, self.cols, self.inner]);
        write!(f, "matmul {form:?} {m} x {n} x {k}")
    }
}
