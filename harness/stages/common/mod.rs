//! Shared by all stages: the trait [`Stage`](stage::Stage), the run's [`Context`](context::Context), the rates for `--dry-run`, and
//! access to images.

pub mod context;
pub mod decoding;
pub mod encoder;
pub mod limits;
pub mod machine;
pub mod rates;
pub mod reporter;
pub mod sample;
pub mod stage;
pub mod steps;
pub mod targets;
pub mod training;
pub mod views;
