//! The run folder: the names of its files, the data in it, writing and reading it.
//!
//! [`data::RunData`] is built in memory by a run and read from files by `bench report` and `bench compare`; tables, figures,
//! comparisons and the page are functions of it. Nothing that a run writes here is read again by the same run.

pub mod data;
pub mod layout;
pub mod read;
pub mod write;
