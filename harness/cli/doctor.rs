//! `bench doctor`: describes this machine, with remedies.

use std::path::Path;

use super::failure::Failure;
use crate::run::environment;

pub fn doctor() -> Result<(), Failure> {
    for (name, finding) in environment::findings(Path::new(".")) {
        put!("{name:<16} {finding}")?;
    }
    Ok(())
}
