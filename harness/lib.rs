//! Tessera: a benchmark harness for the visual tokenizers of masked image modeling.

pub mod data;
pub mod metrics;
pub mod store;

pub use tessera_models as models;
pub use tessera_reports as reports;
pub use tessera_tokenizers as tokenizers;
pub use tessera_tokenizers::*;
