//! `bench report`: tables and figures again from what a run folder holds, and the paper's own figures.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::run::{figures, output};

pub fn report(run: &Path, tables: &[u32], with: &[PathBuf]) -> Result<(), Failure> {
    let written = output::report(run, tables, with)?;
    println!("{}", written.summary);
    for path in &written.files {
        println!("{}", path.display());
    }
    Ok(())
}

pub fn paper(folder: &Path) -> Result<(), Failure> {
    let drawn = tessera_reports::figures::of_paper();
    for figure in &drawn {
        println!("{}", figure.caption);
    }
    for path in figures::save(folder, &drawn)? {
        println!("{}", path.display());
    }
    Ok(())
}
