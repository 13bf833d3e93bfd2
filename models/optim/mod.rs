//! Optimisers over a [`ParamStore`](crate::ParamStore)'s trainable variables, and the schedule.
//!
//! Gradients arrive as lists, one per trainable variable in order, or as one tensor beside the variables (see [`Gradient`]).

mod adamw;
mod lars;
mod optimizer;
pub(crate) mod schedule;
mod state;

pub use crate::gradients::Gradient;
pub use adamw::AdamW;
pub use lars::Lars;
pub use optimizer::{Group, Optimizer, Slot};
pub use schedule::Schedule;

#[cfg(test)]
mod tests;
