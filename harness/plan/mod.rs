//! The graph of a suite's stages, and the one walk over it that looks results up and computes them.

pub mod graph;
pub mod walk;

#[cfg(test)]
mod tests;
