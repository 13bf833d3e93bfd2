//! The paper's toy model of masked image modeling (section 2.2, appendices B and C), computed exactly for any tokenization.
//!
//! [`Space`] is the data, [`Partition`] the tokenization, [`exact`] computes edge weights, eigenvalues, the labelling error and the bound.
//! Points of the same classes are equal, so all sums go over regions of points, for any number of points. [`by_points`] computes the same
//! from the definition, over every pair of points. [`printed`] has the paper's formulas, [`MISPRINTS`] where they differ, and
//! [`CONTRADICTIONS`] what else the paper contradicts.

mod graph;
mod points;
mod printed;
mod space;

pub use graph::{C3, Found, exact};
pub use points::{MOST_POINTS, by_points};
pub use printed::{CONTRADICTIONS, MISPRINTS, Printed, Quantity, printed};
pub use space::{MOST_CLASSES, Partition, Region, Space, Token};

#[cfg(test)]
mod tests;
