//! Optimisers for the trainable variables of a [`ParamStore`](crate::ParamStore), and the learning-rate schedule.

mod adamw;
mod lars;
mod optimizer;
pub(crate) mod schedule;
mod state;

pub use crate::gradients::Gradient;
pub use adamw::AdamW;
pub(crate) use adamw::{MOMENTS, adamw_steps};
pub use lars::Lars;
pub use optimizer::{Group, Optimizer, Slot};
pub use schedule::Schedule;

#[cfg(test)]
mod tests;
