//! The three products that training needs, and right factors that are packed once for many products.

use super::lines::Lines;
use super::matrix::Mat;

/// Which of two factors is transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `a b`
    Plain,
    /// `a b^T`
    RightTransposed,
    /// `a^T b`
    LeftTransposed,
}

impl Form {
    /// Returns the sizes of both factors of a product `[rows, inner] [inner, cols]` in memory.
    pub fn operands(self, [rows, inner, cols]: [usize; 3]) -> [[usize; 2]; 2] {
        match self {
            Self::Plain => [[rows, inner], [inner, cols]],
            Self::RightTransposed => [[rows, inner], [cols, inner]],
            Self::LeftTransposed => [[inner, rows], [inner, cols]],
        }
    }

    /// Returns rows and columns of the product of factors of these sizes.
    pub(super) fn size(self, a: [usize; 2], b: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Plain => [a[0], b[1]],
            Self::RightTransposed => [a[0], b[0]],
            Self::LeftTransposed => [a[1], b[1]],
        }
    }

    /// Returns the inner size.
    ///
    /// # Panics
    /// If the factors do not agree in it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn inner(self, a: [usize; 2], b: [usize; 2]) -> usize {
        let [of_a, of_b] = match self {
            Self::Plain => [a[1], b[0]],
            Self::RightTransposed => [a[1], b[1]],
            Self::LeftTransposed => [a[0], b[0]],
        };
        assert_eq!(of_a, of_b, "inner size");
        of_a
    }

    /// Returns for each factor whether the inner index counts its rows in memory.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn inner_counts_rows(self) -> (bool, bool) {
        (self == Self::LeftTransposed, self != Self::RightTransposed)
    }

    /// Transposes the left factor's matrix.
    pub(super) fn left(self, a: Mat<'_>) -> Mat<'_> {
        match self {
            Self::LeftTransposed => a.t(),
            _ => a,
        }
    }

    /// Transposes the right factor's matrix.
    pub(super) fn right(self, b: Mat<'_>) -> Mat<'_> {
        match self {
            Self::RightTransposed => b.t(),
            _ => b,
        }
    }
}

/// A right factor's columns in the order in which tiles read them, for products in one form. It is empty where products do not use tiles: in
/// f32, and on machines without AVX-512 BF16.
#[derive(Debug, Default)]
pub struct Packed {
    form: Option<Form>,
    lanes: Lines,
}

impl Packed {
    /// Packs for `form`: `pack` writes what tiles read, in the memory of before, and returns whether products on this machine read it.
    pub(super) fn renew(&mut self, form: Form, pack: impl FnOnce(&mut Lines) -> bool) {
        self.form = pack(&mut self.lanes).then_some(form);
    }

    /// Returns what tiles read in a product in `form`, if it was packed for that form.
    pub(super) fn lanes(&self, form: Form) -> Option<&[f32]> {
        (self.form == Some(form)).then(|| self.lanes.all())
    }
}
