//! The run folder: the names of its files, the data in it, writing and reading it.
//!
//! A run builds [`data::RunData`] in memory; `bench report` and `bench compare` read it from files. Tables, figures, comparisons and the
//! page are functions of it. A run does not read the files that it writes here.

mod content;
pub mod data;
pub mod earlier;
pub mod held;
pub mod layout;
pub mod links;
pub mod read;
pub mod sums;
pub mod write;
