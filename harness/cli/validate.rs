//! `bench validate`.

use std::path::Path;

use super::failure::Failure;
use super::running::{allowed, check, started};
use super::terminal;
use crate::registry::Registry;
use crate::suite::Suite;

/// Images and files that are named on the terminal.
const NAMED: usize = 5;
/// Why `validate` does not know the targets of a program.
const LEFT: &str = "programs are not started here";

pub fn validate(
    path: &Path,
    sets: &[String],
    (no_programs, resolved): (bool, bool),
    registry: &Registry,
) -> Result<(), Failure> {
    let mut suite = Suite::load(path, sets, registry)?;
    let train = suite.file.pretrain.is_some();
    check(
        &mut suite,
        registry,
        train,
        (false, allowed(no_programs, false)),
    )?;
    if resolved {
        return Ok(terminal::output(format_args!(
            "{}",
            suite.resolved_text(registry)?
        ))?);
    }
    surveyed(&suite, train)?;
    for row in &suite.rows {
        match row.left_out() {
            Some(reason) => put!("{:<40} {reason}", row.name)?,
            None if started(&suite, registry).any(|name| name == row.name) => {
                let kind = row.kind();
                put!(
                    "{:<40} {kind}; its targets are not checked: {LEFT}",
                    row.name
                )?;
            }
            None => put!("{:<40} {}", row.name, row.kind())?,
        }
    }
    put!(
        "{}: {} rows x {} seeds, fine",
        path.display(),
        suite.rows.len(),
        suite.file.seeds.len()
    )?;
    Ok(())
}

/// Looks for the images and prints their number and what is left out. `train` also checks that they suffice for k-NN.
fn surveyed(suite: &Suite, train: bool) -> Result<(), Failure> {
    let found = suite.dataset.survey()?;
    if let Some([images, val]) = found.images {
        put!("dataset: {images} train and {val} val images")?;
        if train {
            suite.check_neighbours(images)?;
        }
        if train && val == 0 {
            let message = "training needs val images; write `dataset: {hold_out: 0.1}` (kind image-folder), add some, or use `bench score`";
            return Err(Failure::Wrong(message.into()));
        }
    }
    for line in found.omitted.lines(NAMED) {
        put!("{line}")?;
    }
    Ok(())
}
