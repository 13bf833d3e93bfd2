//! ONNX graphs as features and as tokenizers. ONNX Runtime runs them where it is found, the embedded tract elsewhere.

mod embedded;
mod engine;
mod features;
mod fields;
mod hub;
mod ids;
mod inspect;
mod manifest;
mod model;

pub use engine::engines;
pub use features::OnnxFactory;
pub use ids::OnnxIdsFactory;
pub use inspect::{Graph, inspect};
