//! Counts tokens by class on a GPU. The CPU code is part of the metrics.

pub mod launch;
