//! The graph of a suite's stages, and the walk that looks results up or computes them.

pub mod graph;
pub mod walk;

#[cfg(test)]
mod tests;
