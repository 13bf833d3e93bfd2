//! `bench report`: tables again from what a run folder holds.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::run::output;

pub fn report(run: &Path, tables: &[u32], with: &[PathBuf]) -> Result<(), Failure> {
    let written = output::report(run, tables, with)?;
    println!("{}", written.summary);
    for path in &written.files {
        println!("{}", path.display());
    }
    Ok(())
}
