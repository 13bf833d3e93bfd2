//! Counting tokens by class on a GPU. (On the CPU it is the metrics' own.)

pub mod launch;
