//! ONNX graphs as features and as tokenizers. ONNX Runtime runs them if it is installed, otherwise the embedded rten.

mod check;
mod embedded;
mod engine;
mod engines;
mod features;
mod fields;
mod graph;
mod guard;
mod hub;
mod ids;
mod input;
mod inspect;
mod limits;
mod manifest;
mod mends;
mod misread;
mod model;
mod onnxruntime;
mod plain;
mod prepare;
mod protobuf;
mod rten;
mod values;

pub use engines::engines;
pub use features::OnnxFactory;
pub use guard::{WORD as GUARD, guard_with, guarded};
pub use ids::OnnxIdsFactory;
pub use inspect::{Graph, check, inspect};
