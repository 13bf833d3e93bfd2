//! Training-free metrics, all computed from one table of counts: `R[i, j]`, patches with token `i` in images of class `j`.
//!
//! [`Counter`] counts in exact integers. [`Counts`] are the files of a counted split, including each image's tokens. [`Table`] is
//! `R`, dense or, above 2^24 cells, row by row from a file. [`Values`] are functions of `R` alone. [`uncertainty`] adds the
//! chance level (permuted labels of whole images) and the bootstrap over images; [`over_fits`] adds the variation between codebooks.
//! [`arrangement`] is not a function of `R`: it relates codes to their places. Memory grows by a few bytes per image, and
//! not with the codebook beyond a dense `R`.

pub mod arrangement;
mod by_token;
mod counter;
mod counts;
mod fits;
mod spill;
mod sums;
mod table;
pub mod uncertainty;

pub use counter::{CountError, Counter};
pub use counts::{Counts, CountsWriter, IMAGES_FILE, LABELS_FILE};
pub use fits::over_fits;
pub use sums::{VERSION, Values};
pub use table::{DENSE_CELLS, DENSE_FILE, SPARSE_FILE, Table};
pub use uncertainty::{Estimate, estimate};

#[cfg(test)]
mod tests;
