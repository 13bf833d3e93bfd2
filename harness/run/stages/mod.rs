//! The stages: `scan -> fit -> {count, pretrain}`, `count -> metrics`, `pretrain -> {knn, probe, finetune}`.
//!
//! Each is a pure function of its provenance; each file here says what that is and calls the one who can do it.

pub mod count;
pub mod evaluate;
pub mod fit;
pub mod pretrain;
pub mod scan;
pub mod sources;
