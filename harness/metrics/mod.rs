//! Training-free metrics, all from one table of counts: `R[i, j]`, patches with token `i` in images of class `j`.
//!
//! [`Counter`] counts, in exact integers; [`Counts`] are the files of a counted split, with each image's tokens; [`Table`] is `R`,
//! dense or, above 2^24 cells, row by row from a file; [`Values`] are functions of `R` alone; [`uncertainty`] adds what
//! chance would give (labels of whole images permuted) and the bootstrap over images. No step's memory grows with the
//! images, but for a few bytes per image, or with the codebook, beyond a dense `R`.

mod by_token;
mod counter;
mod counts;
mod npy;
mod spill;
mod sums;
mod table;
pub mod uncertainty;
mod values;

pub use counter::{CountError, Counter, DENSE_CELLS};
pub use counts::{Counts, CountsWriter, IMAGES_FILE, LABELS_FILE};
pub(crate) use npy::write as write_npy;
pub use table::{DENSE_FILE, SPARSE_FILE, Table};
pub use uncertainty::{Estimate, estimate};
pub use values::Values;

/// One metric, for `bench list metrics`.
pub struct Metric {
    /// Name, as the column of results.csv.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// "lower", "higher" or "".
    pub better: &'static str,
    /// Definition.
    pub definition: &'static str,
}

impl Metric {
    /// One line.
    pub fn summary(&self) -> String {
        let better = if self.better.is_empty() {
            String::new()
        } else {
            format!(", {} is better", self.better)
        };
        format!("{} [{}{better}]", self.definition, self.unit)
    }
}

const fn metric(
    name: &'static str,
    unit: &'static str,
    better: &'static str,
    definition: &'static str,
) -> Metric {
    Metric {
        name,
        unit,
        better,
        definition,
    }
}

/// All training-free metrics, in the order of [`Values::list`].
pub const METRICS: &[Metric] = &[
    metric(
        "tcas",
        "0..1",
        "lower",
        "paper eq. 8 with P[i,j] = R[i,j] / sum_j R[i,j], diagonal (1 - C_ii)^2, C = P P^T",
    ),
    metric(
        "tcas_norm",
        "0..1",
        "lower",
        "eq. 8 with the diagonal (1 - |P_i|)^2",
    ),
    metric(
        "tcas_softmax",
        "0..1",
        "lower",
        "eq. 8 with rows softmax_j(P[i,j]), as printed",
    ),
    metric(
        "tcas_sharp",
        "0..1",
        "lower",
        "eq. 8 with rows softmax_j(P[i,j] / t), t in the suite",
    ),
    metric("codebook_used", "codes", "", "codes that occur"),
    metric("perplexity", "codes", "", "exp(H(token))"),
    metric(
        "mi",
        "nats",
        "higher",
        "mutual information of token and class",
    ),
    metric("pnmi", "0..1", "higher", "MI / H(class)"),
    metric("nmi", "0..1", "higher", "2 MI / (H(token) + H(class))"),
    metric("token_purity", "0..1", "higher", "sum_i max_j R[i,j] / n"),
    metric("class_purity", "0..1", "higher", "sum_j max_i R[i,j] / n"),
    metric(
        "alpha",
        "0..1",
        "lower",
        "probability that two patches with the same token have different classes (paper, section 3)",
    ),
    metric(
        "eig_sq_sum",
        "1..classes",
        "higher",
        "sum of squared eigenvalues of the normalised class graph",
    ),
];

#[cfg(test)]
mod tests;
