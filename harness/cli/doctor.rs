//! `bench doctor`: describes this machine, with remedies.

use std::path::Path;

use super::failure::Failure;
use super::store;
use crate::run::{environment, places};

pub fn doctor(folder: Option<&Path>, data: Option<&Path>) -> Result<(), Failure> {
    let mut found = environment::findings(Path::new("."));
    found.extend(places::store(&store::folder(folder)));
    found.extend(data.map(places::data).unwrap_or_default());
    for (name, finding) in found {
        put!("{name:<16} {finding}")?;
    }
    Ok(())
}
